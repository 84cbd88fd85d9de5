"""A user's program with mistakes: each line that says so is one, which a type checker finds."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine

from embeddings import AsyncCollection, Collection, EmbeddingRecord, ModelCollection


def mistaken(docs: Collection[int], engine: Engine) -> None:
    """Each in a collection."""
    docs.embed(1.5, "a text")  # wrong
    docs.embed(1, 5)  # wrong
    docs.embed(1, "a text", "tag")  # wrong
    docs.embed_multi(["a text"])  # wrong
    docs.embed_multi_with_metadata([(1, "a text")])  # wrong
    docs.similar("a text", limit=5)  # wrong
    docs.similar("a text", number="5")  # wrong
    docs.similar("a text", min_score="high")  # wrong
    text: str = docs.similar("a text")[0].id  # wrong
    for entry in docs.similar("a text"):
        print(entry.vector)  # wrong
        entry.content.upper()  # wrong
    names: list[str] = docs.ids()  # wrong
    docs.get(1).id  # wrong
    docs.get_many(5)  # wrong
    docs.delete_items(["1"], where=5)  # wrong
    docs.search("a text")  # wrong
    Collection("docs", engine, key=float)  # wrong
    Collection(name=5)  # wrong
    AsyncCollection("docs", engine)  # wrong
    print(text, names, select(EmbeddingRecord.vector))  # wrong


async def forgotten(docs: AsyncCollection[int], engine: AsyncEngine) -> None:
    """And awaited."""
    await docs.embed(1.5, "a text")  # wrong
    await docs.similar("a text", limit=5)  # wrong
    text: str = (await docs.similar("a text"))[0].id  # wrong
    names: list[str] = await docs.ids()  # wrong
    (await docs.get(1)).id  # wrong
    docs.similar("a text")[0]  # wrong
    for _ in docs.similar("a text"):  # wrong
        pass
    number: int = await docs.model_id  # wrong
    await docs.similar_by_vector("a text", skip_id=1.5)  # wrong
    AsyncCollection("docs", engine, key=float)  # wrong
    Collection("docs", engine)  # wrong
    print(text, names, number, 1 in docs, len(docs))  # wrong


async def followed(
    notes: ModelCollection[EmbeddingRecord], engine: Engine, other: AsyncEngine
) -> None:
    """And of a declaration."""
    notes.refresh(other)  # wrong
    notes.nearest(other, "a text")  # wrong
    notes.nearest(engine, 5)  # wrong
    notes.related(engine, "a text")  # wrong
    await notes.arefresh(engine)  # wrong
    await notes.arefresh(other, keyz=[1])  # wrong
    await notes.arefresh(other, limit="1")  # wrong
    await notes.async_(other, forever=True)  # wrong
    await notes.areembed(other, "3-large", keys=[1])  # wrong
    await notes.anearest(engine, "a text")  # wrong
    [(note, score)] = notes.nearest(engine, "a text")
    text: str = score  # wrong
    note.title  # wrong
    print(text)
