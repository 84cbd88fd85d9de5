"""What users of `llm` have at hand: its names, its rows of any age, bytes, notebooks."""

from __future__ import annotations

import sqlite3
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embeddings import (
    Collection,
    CorruptMetadataWarning,
    Entry,
    InvalidVectorError,
    get_embedding_models,
)
from embeddings.testing import DeterministicModel
from tests.reaching import on_a_session

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Open


@pytest.mark.parametrize("db", ["session", "async_aiosqlite_session"], indirect=True)
def test_the_documented_names(docs: Any):
    """`text` and `query` hold as keywords, beside `value`."""
    docs.embed(id="a", text="a happy hound", metadata={"n": 1}, store=True)
    docs.embed(id="b", value="a cat")
    [found] = docs.similar(query="a happy hound", number=1)
    assert (found.id, found.content, found.metadata) == ("a", "a happy hound", {"n": 1})
    assert docs.similar(value="a cat", number=1)[0].id == "b"
    with pytest.raises(TypeError):
        docs.similar(query="one", value="two")


BESIDE_NO_JSON: list[tuple[Any, list[str]]] = [
    ({"n": 1}, ["c"]),
    ({"n": {"$in": [1, "x"]}}, ["c"]),
    ({"n": {"$gt": 0}}, ["c"]),
    ({"n": {"$exists": True}}, ["c"]),
    ({"n": {"$contains": 1}}, []),
    ({"an odd name": 1}, []),
    ({"$or": [{"n": 1}, {"a name.b": 1}]}, ["c"]),
    ({"n": {"$ne": 1}}, ["a", "b"]),
    ({"n": {"$exists": False}}, ["a", "b"]),
]
"""Filters, and what they keep of "a" and "b", whose metadata is not JSON, and of {"n": 1}."""


def test_metadata_that_is_not_json(tmp_path: Path):
    """An empty text is none; other text warns, names the item and ends nothing."""
    path = tmp_path / "app.db"
    with Collection("docs", path, model=DeterministicModel()) as docs:
        docs.embed_multi_with_metadata([(id, f"text {id}", {"n": 1}) for id in "abc"])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE embeddings SET metadata = '' WHERE id = 'a'")
    connection.execute("UPDATE embeddings SET metadata = 'no JSON' WHERE id = 'b'")
    connection.commit()
    connection.close()

    with Collection("docs", path, model=DeterministicModel()) as docs:
        record = docs.get("a")
        assert record is not None
        assert record.metadata_ is None
        for read in (
            lambda: docs.similar("text a"),
            lambda: [docs.get(id) for id in "abc"],
            lambda: docs.get_many([*"abc"]),
            lambda: list(docs),
        ):
            with pytest.warns(CorruptMetadataWarning, match="not JSON.*'b'"):
                found: Any = read()
            metadata = [one.metadata if isinstance(one, Entry) else one.metadata_ for one in found]
            assert [each for each in metadata if each] == [{"n": 1}]
            assert metadata.count(None) == 2
        with warnings.catch_warnings(action="ignore", category=CorruptMetadataWarning):
            for where, expected in BESIDE_NO_JSON:
                assert sorted(e.id for e in docs.similar("text a", where=where)) == expected, where
        docs.embed("b", "text b", {"n": 2})
        assert {entry.id: entry.metadata for entry in docs.similar("text b")} == {
            "a": None,
            "b": {"n": 2},
            "c": {"n": 1},
        }


@on_a_session
def test_codes_are_no_values(docs: Collection[str]):
    """uint8 is refused with what to do; int8 is taken."""
    with pytest.raises(InvalidVectorError, match=r"vector of 'a': uint8 .* np\.unpackbits"):
        docs.store_vectors([("a", np.array([1, 255], np.uint8))])
    docs.store_vectors([("a", np.array([1, -5], np.int8))])
    record = docs.get("a")
    assert record is not None
    assert record.embedding.tolist() == [1.0, -5.0]


@on_a_session
def test_kinds_of_bytes(opened: Open):
    """A bytearray and a memoryview are contents as bytes are."""
    docs: Any = opened(model=DeterministicModel("of bytes", supports_binary=True))
    docs.embed("a", b"\0\1")
    docs.embed("b", bytearray(b"\0\1"))
    docs.embed_multi([("c", memoryview(b"\0\1"))], store=True)
    assert docs.get("c").content_blob == b"\0\1"
    assert [hit.id for hit in docs.similar(bytearray(b"\0\1"))] == ["a", "b", "c"]


def test_the_models_of_plugins_are_listed():
    """Those of `llm`, which its plugins provide."""
    llm = pytest.importorskip("llm")
    listed = {model.model_id for model in get_embedding_models()}
    assert {model.model_id for model in llm.get_embedding_models()} <= listed


@on_a_session
def test_entries_in_a_notebook(docs: Collection[str]):
    """A table of their four fields, with nothing that a browser would take for markup."""
    docs.embed("<a>", "<b>bold</b>", {"n": "&"}, store=True)
    table = docs.similar("x")._repr_html_()
    assert "<th>id</th><th>score</th><th>content</th><th>metadata</th>" in table
    assert "&lt;a&gt;" in table
    assert "&lt;b&gt;bold" in table
