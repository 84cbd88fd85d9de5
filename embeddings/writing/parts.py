"""Items of a collection with chunks: cut into parts, each a row, and brought up to date as one."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, literal, select, union_all

from ..errors import ChunksMismatchError, EmbeddingsError, InvalidItemError
from ..keys import AFTER_MARK, CHUNK_MARK, chunk_id, chunk_owner
from ..models.base import batches, kinds, prefixed
from .chunks import chunks_of
from .items import Item, Part, hashes_of, of_item
from .resolve import is_same_json, resolve, stored_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..models.base import Content, SupportsEmbedding
    from ..vectors import Float32
    from ..work.operation import Work
    from ..work.reference import Reference
    from ..work.row import CollectionRow
    from .chunks import Chunks
    from .resolve import Resolution, StoredRow

AT_ONCE = 100  # items whose rows one statement looks for


def chunks_for(collection: Reference[Any], row: CollectionRow | None) -> Chunks | None:
    """Return how a collection's texts are cut; None if they are not.

    Raises:
        ChunksMismatchError: It takes a function that is not at hand.
    """
    setting = collection.chunk_setting_of(row)
    return None if setting is None else chunks_of(setting, collection.chunks, collection.name)


def check_chunks(work: Work, chunks: Chunks | None) -> None:
    """Do nothing if the collection's texts are cut as those of a write were.

    Raises:
        ChunksMismatchError: They are not.
    """
    if work.row.chunks != (None if chunks is None else chunks.setting):
        raise ChunksMismatchError(
            f"The texts of collection {work.row.name!r} are cut in another way by now: give "
            "them again, in a new plan if they were planned"
        )


def refuse_parts(collection: Reference[Any], row: CollectionRow | None) -> None:
    """Do nothing unless the collection has chunks.

    Raises:
        InvalidItemError: It does; the message says what to use instead.
    """
    if collection.chunk_setting_of(row) is not None:
        raise InvalidItemError(
            f"The collection {collection.name!r} has chunks, and store_vectors() takes one vector "
            "for each item: give the texts to embed_multi(), or store the vectors in a collection "
            "without chunks"
        )


def texts_of(chunks: Chunks | None, content: Content) -> list[Content]:
    """Return what of a content the model is called with: its chunks, each once, or itself."""
    if chunks is None or isinstance(content, bytes):
        return [content]
    return [*dict.fromkeys(content[start:end] for start, end in chunks.spans(content))]


def vectors_of(
    collection: Reference[Any], items: Iterable[Item], prepared: Mapping[Content, Float32]
) -> dict[bytes, Float32]:
    """Return the vectors that were prepared for an item or its chunks, by their keys.

    Raises:
        ChunksMismatchError: They were prepared for a text that is cut in another way.
    """
    vectors: dict[bytes, Float32] = {}
    for item in items:
        if item.content not in prepared:
            raise ChunksMismatchError(
                f"item {item.owner!r}: the texts of collection {collection.name!r} are cut in "
                "another way than this one was prepared for: call prepare() again"
            )
        vectors[item.key] = prepared[item.content]
    return vectors


def cut(
    collection: Reference[Any],
    model: SupportsEmbedding,
    chunks: Chunks,
    items: Iterable[Item],
    errors: dict[str, Exception] | None = None,
) -> list[Item]:
    """Return the parts of items as items, sorted by their own ids.

    Args:
        collection: Of the items.
        model: That they are for.
        chunks: How they are cut.
        items: Whole.
        errors: Takes why single items cannot be cut, by their ids; None raises the first.

    Raises:
        InvalidItemError: The splitter cannot cut one.
    """
    made: list[Item] = []
    for item in items:
        content = item.content
        if isinstance(content, bytes):
            whole = Part(item.id, 0, None, None, item.key, None, 1)
            made.append(item._replace(id=chunk_id(item.id, 0), part=whole))
            continue
        try:
            spans = _spans(collection, chunks, item.id, content)
        except Exception as error:
            if errors is None or (isinstance(error, EmbeddingsError) and not error.ids):
                raise
            errors[item.id] = error
            continue
        is_whole = spans == [(0, len(content))]
        for number, (start, end) in enumerate(spans):
            text = content[start:end]
            is_first = number == 0
            part = Part(
                item.id,
                number,
                start,
                end,
                item.key if is_first else None,
                content if is_first and item.store and not is_whole else None,
                len(spans) if is_first else None,
            )
            hashed, key = item.content_hash, item.key
            if not is_whole:
                hashed, key = hashes_of(collection, prefixed(model, text))
            made.append(
                item._replace(
                    id=chunk_id(item.id, number),
                    content=text,
                    content_hash=hashed,
                    key=key,
                    part=part,
                )
            )
    return sorted(made, key=lambda item: item.id)


def _spans(
    collection: Reference[Any], chunks: Chunks, id: str, content: str
) -> list[tuple[int, int]]:
    """Return where each chunk of an item begins and ends; an error names the item."""
    try:
        return chunks.spans(content)
    except InvalidItemError as error:
        raise of_item(collection.keys, id, error) from None
    except Exception as error:  # of a function of the host's
        error.add_note(f"It was raised for the id {collection.keys.key_noted(id)!r}")
        raise


class Kept(NamedTuple):
    """What is kept of a part, but for the item's text."""

    start: int | None
    end: int | None
    item_hash: bytes | None
    has_content: bool
    chunks: int | None


def kept_parts(work: Work, ids: Iterable[str] | None) -> dict[str, Kept]:
    """Return what is kept of parts, by the ids of their rows; of other collections nothing."""
    if not ids or work.row.chunks is None:
        return {}
    parts = work.database.parts(work).c
    statement = select(
        parts.id,
        parts.start,
        parts.end,
        parts.item_hash,
        parts.item_content.is_not(None),
        parts.item_chunks,
    ).where(work.database.is_one_of(parts.id, list(ids)))
    return {
        id: Kept(start, end, item_hash and bytes(item_hash), bool(has_content), count)
        for id, start, end, item_hash, has_content, count in work.run(statement)
    }


def row_ids(work: Work, ids: Iterable[str]) -> dict[str, str]:
    """Return the stored ids of the rows of some items, each with that of its item.

    In a collection without chunks an item's row has its id, whether it is there or not.
    """
    if work.row.chunks is None:
        return {id: id for id in ids}
    kept = kept_parts(work, [chunk_id(id, 0) for id in ids])
    return {
        chunk_id(chunk_owner(first), number): chunk_owner(first)
        for first, part in kept.items()
        for number in range(part.chunks or 0)
    }


def rows_of(work: Work, ids: Iterable[str]) -> dict[str, str]:
    """Return what `row_ids` does, also for rows that the first one of their item says nothing of.

    It may be missing, or not as it was written, where another program has been at it.
    """
    if work.row.chunks is None:
        return {id: id for id in ids}
    columns = work.records.embeddings.c
    found: dict[str, str] = {}
    for batch in batches(sorted(ids), AT_ONCE):
        each = union_all(*(select(literal(id).label("item")) for id in batch)).subquery()
        item = each.c["item"]
        rows = select(columns.id, item).where(
            columns.collection_id == work.row.id,
            columns.id >= item.concat(CHUNK_MARK),
            columns.id < item.concat(AFTER_MARK),
            work.item_id == item,
        )
        found |= {row[0]: row[1] for row in work.run(rows)}
    return found


def has_first_rows(work: Work) -> bool:
    """Return whether there is the first row of each item, which another program may delete."""
    if work.row.chunks is None:
        return True
    rows = select(work.item_id).where(work.records.embeddings.c.collection_id == work.row.id)
    items, first = rows.distinct().subquery(), rows.where(work.is_item).subquery()
    counts = (select(func.count()).select_from(each).scalar_subquery() for each in (items, first))
    count, count_of_first = work.run(select(*counts)).one()
    return bool(count == count_of_first)


def there(work: Work, ids: Iterable[str]) -> set[str]:
    """Return which of some items are stored, by their first rows."""
    first = {id if work.row.chunks is None else chunk_id(id, 0): id for id in ids}
    return {first[id] for id, *_ in work.database.stored_rows(work, [*first], ())}


def free_items(work: Work, ids: Iterable[str]) -> set[str]:
    """Return the stored ids of items that nobody else is writing, as `Database.free_rows`."""
    ids = {*ids}
    if work.row.chunks is not None:
        ids = work.database.free_items(work, sorted(ids))
    owners = row_ids(work, ids)
    free = work.database.free_rows(work, sorted(owners))
    return ids - {owners[id] for id in owners.keys() - free}


def unchanged(
    collection: Reference[Any],
    work: Work,
    model: SupportsEmbedding,
    items: list[Item],
    errors: dict[str, Exception],
) -> set[str]:
    """Return the stored ids of items that the collection has just as they are.

    Args:
        collection: Of the items.
        work: That reads.
        model: Of the collection.
        items: Whole.
        errors: Takes why single items cannot be cut, by their ids.
    """
    setting = work.row.chunks  # whatever was given: it is only read
    if setting is not None:
        chunks = chunks_of(setting, collection.chunks, collection.name)
        items = cut(collection, model, chunks, items, errors)
    stored = stored_rows(work, items)
    kept = kept_parts(work, stored)
    items = compared(work, items, stored, kept)
    todo = resolve(work, items, stored, {}, kinds(model))
    same = todo.unchanged
    if setting is not None:
        same = same - {item.id for item in changed(items, todo, kept)}
    return {item.owner for item in items} - {i.owner for i in items if i.id not in same}


def compared(
    work: Work,
    items: list[Item],
    stored: Mapping[str, StoredRow] | None,
    kept: Mapping[str, Kept],
) -> list[Item]:
    """Return items as they are to be resolved, given the rows that are there.

    Where an item's text is another its rows are replaced, as a whole; those that are just as they
    are to be may stay. Where it is the same, a row that is missing gets what the others have.

    Args:
        work: Of the collection.
        items: Of `cut`; others are returned as they are.
        stored: The rows; None if the collection has no row yet.
        kept: What is kept of them.
    """
    if not stored or work.row.chunks is None:
        return items
    todo: list[Item] = []
    for _, group in groupby(sorted(items, key=by_owner), by_owner):
        parts = list(group)
        is_same = is_there(parts, kept)
        first = stored.get(chunk_id(parts[0].owner, 0))
        for item in parts:
            row = stored.get(item.id)
            has_text = row is not None and row.content_hash in {item.content_hash, item.key}
            if not is_same:
                stays = has_text and row is not None and _is_as_replaced(item, row)
                todo.append(item if stays else item._replace(anew=True))
            elif has_text or first is None:
                todo.append(item)
            else:
                metadata = first.metadata if item.metadata is None else item.metadata
                is_stored = bool(first.is_text or first.is_binary)
                todo.append(item._replace(metadata=metadata, store=item.store or is_stored))
    return sorted(todo, key=lambda item: item.id)


def by_owner(item: Item) -> str:
    """Return what the parts of an item have in common."""
    return item.owner


def is_there(parts: Sequence[Item], kept: Mapping[str, Kept]) -> bool:
    """Return whether an item is stored with this text, whatever has become of single rows."""
    item_hash = next(item.part.item_hash for item in parts if item.part and not item.part.number)
    first = kept.get(chunk_id(parts[0].owner, 0))
    return (
        first is not None
        and (first.item_hash, first.chunks) == (item_hash, len(parts))
        and not any(item.anew for item in parts)
    )


def _is_as_replaced(item: Item, row: StoredRow) -> bool:
    if item.anew or (row.is_text or row.is_binary) != item.store:
        return False
    return is_same_json(item.metadata, row.metadata)


def changed(items: Iterable[Item], todo: Resolution, kept: Mapping[str, Kept]) -> list[Item]:
    """Return the parts of which something else is to be kept than is, or whose rows are written."""
    written = {row["id"] for row in todo.rows}
    return [item for item in items if item.id in written or _differs(item, kept.get(item.id))]


def _differs(item: Item, kept: Kept | None) -> bool:
    part = item.part
    if part is None or kept is None:
        return True
    has_content = kept.has_content or part.item_content is None
    return not has_content or part[2:5] + part[6:] != kept[:3] + kept[4:]


def given_parts(items: Iterable[Item]) -> list[tuple[Any, ...]]:
    """Return what is to be kept of parts, as `Database.put_parts` takes it."""
    return [(item.id, *item.part[2:]) for item in items if item.part is not None]


def before_rows(
    work: Work, given: Iterable[tuple[Any, ...]], todo: Iterable[Mapping[str, Any]]
) -> None:
    """Note what is to be kept of parts whose rows are about to be written, as `given_parts` has it.

    A database may write it with the rows.
    """
    ids = {row["id"] for row in todo}
    work.parts = {each[0]: each[1:] for each in given if each[0] in ids}


def write(work: Work, given: Sequence[tuple[Any, ...]], kept: Mapping[str, Kept]) -> None:
    """Keep what is to be kept of parts whose rows are written, and delete those of the text before.

    Args:
        work: Of the collection.
        given: What is to be kept: the columns of `Database.parts`.
        kept: What was kept of them before.
    """
    if not given:
        return
    work.database.put_parts(work, given)
    surplus: list[str] = []
    for id, *_, chunks in given:
        before = kept.get(id)
        if chunks and before is not None:
            numbers = range(chunks, before.chunks or 0)
            surplus += [chunk_id(chunk_owner(id), number) for number in numbers]
    if surplus:
        columns = work.records.embeddings.c
        is_surplus = work.database.is_one_of(columns.id, surplus)
        work.database.delete_rows(work, [columns.collection_id == work.row.id, is_surplus])
