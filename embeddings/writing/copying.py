"""A collection copied into another: its vectors, and all that is stored beside them."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from sqlalchemy import func, select

from ..errors import InvalidItemError, ModelMismatchError
from ..keys import chunk_id, chunk_owner
from ..models import registry
from ..models.base import check_batch_size
from ..searching.read import is_among_first
from ..values import checked_content, dump_metadata
from ..vectors import ITEM_BYTES
from ..work.reference import retried
from ..work.row import memory_key
from . import rows
from .parts import before_rows, kept_parts, write
from .progress import teller, told
from .report import Report
from .resolve import Resolution, is_same_json, texts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..work.operation import Work
    from ..work.reference import Reference
    from .progress import Progress

T = TypeVar("T")
COPIED_AT_ONCE = 500  # rows
CORRUPT = "its stored vector is corrupt"
"""Why an item is skipped."""


class Page(NamedTuple):
    """Some rows of the collection that is copied."""

    rows: list[dict[str, Any]]
    """By the columns of the table, in the order of their ids."""
    skipped: list[tuple[Any, str]]
    read: int
    """Of all that were read, the items."""
    last: str | None
    kept: dict[str, tuple[Any, ...]]
    """What is kept of those that are chunks, by their ids: the columns of `Database.parts`."""


def target(other: object, kind: type[T]) -> T:
    """Return what to copy to, if it is a collection of the kind.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(other, kind):
        raise TypeError(
            f"copy_to() takes a collection, {kind.__name__}(name, database), not "
            f"{type(other).__name__}"
        )
    return other


def copy_to(
    collection: Reference[Any], other: Reference[Any], batch_size: int, progress: Progress
) -> Report:
    """Copy every item. See `Collection.copy_to`."""
    check_batch_size(batch_size)
    told(progress)  # before the other collection is created
    began = perf_counter()
    model_id, chunks, total = _begin(collection, other)
    tell, done, report, last = teller(progress, total), 0, Report(), None
    while (page := _page(collection, last, batch_size)).last is not None:
        written, unchanged = _write(other, page, model_id, chunks)
        skipped = dict(page.skipped)  # of an item each once
        report += Report(reused=written, unchanged=unchanged, skipped=tuple(skipped.items()))
        done, last = done + page.read, page.last
        tell(done)
    return Report(**vars(report) | {"seconds": perf_counter() - began})


@retried
def _begin(collection: Reference[Any], other: Reference[Any]) -> tuple[str, str | None, int]:
    """Return the model, the chunks and the number of items, and create the other collection."""
    columns = collection.records.embeddings.c
    with collection.work() as work:
        row = collection.existing(work)
        model_id = row.model_id
        is_ours = columns.collection_id == row.id, work.database.has_id(columns.id), work.is_item
        total = int(work.run(select(func.count()).where(*is_ours)).scalar_one())
        bind = work.bind
    there = other.sessions.bind(other.records)
    one = bind.engine, *memory_key(bind, collection.records, collection.name)
    if one == (there.engine, *memory_key(there, other.records, other.name)):
        raise ValueError(f"Collection {collection.name!r} cannot be copied to itself")
    other.check_model_id(model_id)
    _write(other, Page([], [], 0, None, {}), model_id, row.chunks)
    return model_id, row.chunks, total


@retried
def _page(collection: Reference[Any], last: str | None, size: int) -> Page:
    """Return the rows after an id."""
    columns = collection.records.embeddings.c
    with collection.work() as work:
        row = collection.existing(work)
        is_next = work.database.has_id(columns.id) if last is None else columns.id > last
        conditions = [columns.collection_id == row.id, is_next]
        statement = (
            select(
                columns.id,
                work.database.vector_as_bytes(columns.embedding),
                columns.content,
                columns.content_blob,
                columns.content_hash,
                columns.metadata,
                columns.updated,
            )
            .where(*conditions, is_among_first(size, columns.id, conditions))
            .order_by(columns.id)
            .limit(size)
        )
        found = work.run(statement).all()
        kept = _kept(work, [id for id, *_rest in found])
        blobs = [blob for _, blob, *_rest in found]
        dimensions = (row.vector_bytes or 0) // ITEM_BYTES
        matrix, is_whole = work.database.as_matrix(blobs, dimensions)
    vectors = iter(matrix)
    has_chunks = row.chunks is not None
    read = sum(id == chunk_id(chunk_owner(id), 0) for id, *_rest in found)
    page = Page([], [], read if has_chunks else len(found), found[-1][0] if found else None, kept)
    for (id, _, content, blob, content_hash, metadata, updated), whole in zip(
        found, is_whole, strict=True
    ):
        vector = next(vectors) if whole else np.empty(0, np.float32)
        key = collection.keys.from_text(chunk_owner(id) if has_chunks else id)
        if not vector.size or not np.isfinite(vector).all():
            page.skipped.append((key, CORRUPT))
            continue
        try:
            described = None if metadata is None else dump_metadata(metadata)
            for stored in (content, blob):
                if stored is not None:
                    checked_content(stored)
        except InvalidItemError as error:  # of another program
            page.skipped.append((key, str(error)))
            continue
        page.rows.append(
            {
                "id": id,
                "embedding": vector,
                "content": content,
                "content_blob": blob,
                "content_hash": content_hash,
                "metadata": described,
                "updated": updated,
            }
        )
    return page


@retried
def _write(other: Reference[Any], page: Page, model_id: str, chunks: str | None) -> tuple[int, int]:
    """Write those of the rows that are not there as they are.

    Returns:
        How many items, and how many items are there. With chunks each counts with its first.
    """
    given = page.rows
    ids = [row["id"] if chunks is None else chunk_owner(row["id"]) for row in given]
    for id in ids:
        other.id_of(other.keys.from_text(id))
    with other.work(write=True) as work:
        found = other.find_or_create(work, model_id)
        if not registry.is_one_model(found.model_id, model_id):
            raise ModelMismatchError(other.name, found.model_id, model_id)
        if found.chunks != chunks:
            other.take_chunks(work, chunks)
        if chunks is not None:
            work.database.keep_items(work, ids)
        there = _unchanged(work, given) if found.vector_bytes is not None else set()
        new = [row for row in given if row["id"] not in there]
        kept = kept_parts(work, [row["id"] for row in new])
        parts = [page.kept[row["id"]] for row in new if row["id"] in page.kept]
        before_rows(work, parts, new)
        rows.write(work, Resolution(new, texts=texts_of(given)))
        write(work, parts, kept)
    items = [row for row in given if chunks is None or page.kept.get(row["id"], (0,))[-1]]
    written = sum(row["id"] not in there for row in items)
    return written, len(items) - written


def _kept(work: Work, ids: list[str]) -> dict[str, tuple[Any, ...]]:
    """Return what is kept of chunks, by their ids."""
    if work.row.chunks is None:
        return {}
    parts = work.database.parts(work)
    found = work.run(select(parts).where(work.database.is_one_of(parts.c.id, ids)))
    return {row[0]: tuple(row) for row in found}


def _unchanged(work: Work, given: Sequence[dict[str, Any]]) -> set[str]:
    """Return the ids of rows that are there as they are given.

    Equal hashes tell that vectors are of one content; without any the vectors are compared.
    """
    by_id = {row["id"]: row for row in given}
    same: set[str] = set()
    unknown: list[str] = []
    for (
        id,
        content_hash,
        is_text,
        is_binary,
        metadata,
        vector_bytes,
        updated,
    ) in work.database.stored_rows(work, list(by_id)):
        row = by_id[id]
        if (
            (content_hash, updated) == (row["content_hash"], row["updated"])
            and vector_bytes == row["embedding"].size * ITEM_BYTES
            and (bool(is_text), bool(is_binary))
            == (row["content"] is not None, row["content_blob"] is not None)
            and is_same_json(row["metadata"], metadata)
        ):
            if content_hash is None:
                unknown.append(id)
            else:
                same.add(id)
    return same | _of_same_vector(work, by_id, unknown)


def _of_same_vector(
    work: Work, given: Mapping[str, dict[str, Any]], ids: Sequence[str]
) -> set[str]:
    """Return which rows have the vectors that are given for them."""
    if not ids:
        return set()
    columns = work.records.embeddings.c
    statement = select(columns.id, work.database.vector_as_bytes(columns.embedding)).where(
        columns.collection_id == work.row.id, work.database.is_one_of(columns.id, ids)
    )
    found = work.run(statement).all()
    dimensions = given[ids[0]]["embedding"].size
    matrix, is_whole = work.database.as_matrix([blob for _, blob in found], dimensions)
    there = [id for (id, _), whole in zip(found, is_whole, strict=True) if whole]
    wanted = np.array([given[id]["embedding"] for id in there]).reshape(matrix.shape)
    return {id for id, same in zip(there, (matrix == wanted).all(axis=1), strict=True) if same}
