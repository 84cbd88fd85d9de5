"""What SQLite makes of the statements: rows that are asked for by id are sought by id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select

from embeddings import Chunks, Collection, EmbeddingRecord
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

USES: dict[str, Callable[[Collection[str]], object]] = {
    "embed": lambda docs: docs.embed_multi([("a", "a hound"), ("b", "a cat")]),
    "search": lambda docs: docs.similar("a hound"),
    "among keys": lambda docs: docs.similar("a hound", among=["a", "b"]),
    "among a SELECT": lambda docs: docs.similar(
        "a hound", among=select(EmbeddingRecord.id).where(EmbeddingRecord.updated > 0)
    ),
    "delete": lambda docs: docs.delete_items(["a", "b"]),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_ids_are_sought_and_not_compared_row_by_row(
    use: Callable[[Collection[str]], object], engine: Engine, model: Any
):
    """Else a batch of a bulk write would read the whole collection."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([(str(at), f"text {at}") for at in range(30)])
    plans: list[str] = []

    def explain(_connection: object, cursor: Any, sql: str, values: Any, *_: object) -> None:
        if "json_each(" in sql:
            other = cursor.connection.cursor()
            other.execute(f"EXPLAIN QUERY PLAN {sql}", values)
            plans.append("; ".join(row[3] for row in other.fetchall()))

    event.listen(engine, "before_cursor_execute", explain)
    use(docs)

    assert plans
    for plan in plans:
        assert "collection_id=? AND id=?" in plan


@pytest.mark.parametrize("count", [1, 3, 500, 501])
def test_vectors_are_found_by_their_contents_however_many(count: int, engine: Engine, model: Any):
    """Also where the SELECT has more places than contents, or one SELECT is not enough."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([(f"a{at}", f"text {at}") for at in range(count)], batch_size=count)
    calls = len(model.calls)
    docs.embed_multi([(f"b{at}", f"text {at}") for at in range(count)], batch_size=count)

    assert len(model.calls) == calls
    assert docs.count() == 2 * count


def test_few_statements_look_for_any_number_of_contents(engine: Engine, model: Any):
    """Each text is compiled, and kept."""
    docs = Collection("docs", engine, model=model)
    docs.embed("first", "a first text")
    texts: set[str] = set()

    def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        if "content_hash IN" in sql:
            texts.add(sql)

    event.listen(engine, "before_cursor_execute", note)
    for count in range(1, 33):
        docs.embed_multi([(str(at), f"{at} of {count}") for at in range(count)])

    assert len(texts) == 6


def test_an_item_is_read_with_its_collection(engine: Engine, model: Any):
    """One SELECT tells whether it is unchanged, also after the collection was renamed and back."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([(str(at), f"text {at}") for at in range(30)])
    Collection("others", engine, model=model).embed("7", "another text")
    docs.rename("theirs")
    docs.rename("docs")
    seen: list[str] = []

    def see(_connection: object, cursor: Any, sql: str, values: Any, *_: object) -> None:
        seen.append(sql.split()[0])
        if "LEFT OUTER JOIN" in sql:
            other = cursor.connection.cursor()
            other.execute(f"EXPLAIN QUERY PLAN {sql}", values)
            plan = "; ".join(row[3] for row in other.fetchall())
            assert "SEARCH embeddings" in plan
            assert "collection_id=? AND id=?" in plan
            if "content_hash IN" in sql:
                assert "idx_embeddings_content_hash (content_hash=?)" in plan

    event.listen(engine, "before_cursor_execute", see)
    docs.embed("7", "text 7")
    assert seen.count("SELECT") == 1
    seen.clear()
    docs.embed("7", "another text")
    assert seen.count("SELECT") == 2  # the item and whether this text is there, and again
    calls = len(model.calls)
    docs.embed("8", "another text")
    assert len(model.calls) == calls
    assert [docs.get(id).content_hash for id in ("7", "8")] == [  # type: ignore[union-attr]
        Collection("others", engine).get("7").content_hash  # type: ignore[union-attr]
    ] * 2


@pytest.mark.parametrize("content", ["a text", b"bytes"])
@pytest.mark.parametrize("prefix", ["", "passage: "])
def test_a_content_is_reused_within_its_collection(
    content: str | bytes, prefix: str, engine: Engine
):
    """Under another id, as the model is given it; not from another collection."""
    model = DeterministicModel(supports_binary=True)
    model.document_prefix = prefix
    others = Collection("others", engine, model=model)
    docs = Collection("docs", engine, model=model)
    docs.embed("first", "the first one")
    others.embed("a", content)
    for id in ("a", "b"):
        docs.embed(id, content)

    assert len(model.calls) == 3
    ids, vectors = docs.vectors()
    assert ids == ["a", "b", "first"]
    assert vectors[0].tolist() == vectors[1].tolist()


def test_each_statement_is_compiled_once(engine: Engine):
    """Of words and of chunks, too, whose tables are made for one collection."""
    model = DeterministicModel()
    plain = Collection("docs", engine, model=model)
    docs = Collection("parts", engine, model=model, chunks=Chunks(size=40))
    for each in (plain, docs):
        each.create_text_index()

    def use(at: int) -> None:
        for each in (plain, docs):
            each.embed(f"{at}", f"text {at} of several words, which is longer than a chunk is")
            each.similar(f"text {at}", words=True)
            each.similar(f"text {at}", where={"n": at})
            each.get(f"{at}")
            each.delete_items([f"{at}"])
        docs.get_chunks(f"{at}")

    for at in range(3):
        use(at)
    compiled: Any = engine._compiled_cache
    before = len(compiled)
    for at in range(10):
        use(at)
    assert len(compiled) == before
