"""Claims of the documentation of `llm`'s Python API that none of its examples shows.

`test_documentation` has the examples, `test_reference` the class reference. Each test here has the
sentence that it is about, in our words; the name of the module alone is another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlite_utils
from sqlalchemy.exc import IntegrityError

import embeddings
from embeddings.testing import DeterministicModel
from tests.forked import python
from tests.reaching import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Open

HOUND, CAT = "my happy hound", "my dissatisfied cat"
both = pytest.mark.parametrize("db", ["session", "postgresql_session"], indirect=True)


def test_supports_text_indicates_whether_the_model_takes_text(
    deterministic_models: Callable[[str], DeterministicModel],
):
    """Where it is False a string is refused, and bytes are embedded."""
    model: Any = deterministic_models("clip")
    model.supports_text, model.supports_binary = False, True
    loaded: Any = embeddings.get_embedding_model("clip")
    assert loaded.supports_text is False
    with pytest.raises(ValueError, match="text strings"):
        loaded.embed(HOUND)
    assert loaded.embed(HOUND.encode()) == model.embed(HOUND.encode())


def test_strings_or_binary_strings_are_embedded_at_once(
    deterministic_models: Callable[[str], DeterministicModel],
):
    """`.embed_multi()` of both kinds gives a vector of each, in their order, from one call."""
    model = deterministic_models("clip")
    model.supports_binary = True
    loaded: Any = embeddings.get_embedding_model("clip")
    values: list[str | bytes] = [HOUND, CAT.encode(), HOUND.encode()]
    vectors = list(loaded.embed_multi(values))
    assert model.calls == [values]
    assert vectors == [model.embed(value) for value in values]


def test_an_in_memory_database_is_discarded_when_the_process_exits(tmp_path: Path):
    """Another process leaves no file, and this one begins with nothing."""
    code = (
        "import embeddings, embeddings.testing as testing\n"
        "docs = embeddings.Collection('entries', model=testing.DeterministicModel())\n"
        "docs.embed('hound', 'my happy hound')\n"
        "print(docs.count())"
    )
    done = python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("1\n", 0)
    assert list(tmp_path.iterdir()) == []
    with embeddings.Collection("entries", model=DeterministicModel()) as docs:
        assert docs.count() == 0


def test_each_vector_is_stored_along_with_its_id(tmp_path: Path):
    """In the one table of embeddings, under the collection that groups it by name."""
    db = sqlite_utils.Database(tmp_path / "my-embeddings.db")
    model = DeterministicModel()
    ids = {}
    for name in ("entries", "others"):
        with embeddings.Collection(name, db, model=model) as collection:
            collection.embed_multi([("hound", f"{name}: {HOUND}"), ("cat", f"{name}: {CAT}")])
            ids[collection.id] = name
    stored = {
        (ids[row["collection_id"]], row["id"]): embeddings.decode(row["embedding"])
        for row in db["embeddings"].rows
    }
    assert stored == {
        (name, id): tuple(model.embed(f"{name}: {text}"))
        for name in ids.values()
        for id, text in (("hound", HOUND), ("cat", CAT))
    }
    db.close()


@both
def test_a_name_is_unique_in_the_database(opened: Open, db: Any):
    """One name is one collection, whoever opens it; the database takes no second row of it."""
    opened("entries").embed("hound", HOUND)
    again = opened("entries")
    again.embed("cat", CAT)
    assert again.ids() == ["cat", "hound"]
    assert rows_of(db, "SELECT name FROM collections") == [("entries",)]
    insert = "INSERT INTO collections (name, model) VALUES ('entries', 'ada-002') RETURNING id"
    with pytest.raises(IntegrityError, match=r"(?i)unique"):
        rows_of(db, insert)


@both
def test_similar_scores_every_document(opened: Open, model: DeterministicModel):
    """The scores are those of a comparison with each document, in its order, and all of them."""
    docs = opened("entries")
    texts = {f"{n:02}": f"animal {n} of the {'hounds' if n % 3 else 'cats'}" for n in range(40)}
    docs.embed_multi(texts.items())
    query = model.embed("hounds")
    scores = {
        id: embeddings.cosine_similarity(query, model.embed(text)) for id, text in texts.items()
    }
    found = docs.similar("hounds", number=len(texts))
    assert [entry.id for entry in found] == sorted(
        texts, key=lambda one: (-round(scores[one], 6), one)
    )
    assert [entry.score for entry in found] == pytest.approx(
        [scores[entry.id] for entry in found], abs=1e-6
    )
