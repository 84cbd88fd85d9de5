"""A collection's vectors of another model, which stand beside its own: made, compared, switched.

They are rows of a collection of their own, under a name of `tables.beside`. To switch is to give
each the other's name, in one transaction that keeps writers out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import JSON, Text, cast, or_, select, update
from sqlalchemy.exc import DBAPIError

from ..databases.status import IndexRequest
from ..errors import DoesNotExist, InvalidQueryError, ModelMismatchError
from ..keys import chunk_id
from ..models import registry
from ..models.base import check_model
from ..tables.beside import NEXT, PREVIOUS, SWITCHING, names_beside, stands_beside
from ..tables.records import COLUMNS
from ..work.reference import retried
from . import parts, text_index, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Column, Select, Table

    from ..models.base import Content, SupportsEmbedding
    from ..work.operation import Work
    from ..work.reference import Reference
    from ..work.row import CollectionRow

PAGE = 5_000  # rows compared at a time


@dataclass(frozen=True, eq=False)
class Pair:
    """A collection, and what stands beside it. Neither is created by an operation on it.

    Attributes:
        current: The collection, of whatever model it is.
        other: What stands beside it, by its own model.
        model: That model.
    """

    current: Reference[Any]
    other: Reference[Any]
    model: SupportsEmbedding


def begin(collection: Reference[Any], given: SupportsEmbedding | str) -> Pair | None:
    """Return the collection with what is to take over from it, which is created if need be.

    Args:
        collection: The collection.
        given: The model, or its id or alias.

    Returns:
        The two, or None if the collection has this model.

    Raises:
        UnknownModelError: There is no such model.
        DoesNotExist: There is no such collection.
        ModelMismatchError: Vectors of a third model stand beside it.
        InvalidQueryError: It stands beside another one itself.
    """
    model: SupportsEmbedding
    if isinstance(given, str):
        model = _known(collection, registry.canonical_id(given))
    else:
        check_model(given)
        model = registry.substituted(given)
    collection.brought[model.model_id] = model
    current = _current(collection)
    suffix = _begin(current, model.model_id)
    return None if suffix is None else _pair(current, suffix, model)


def previous(collection: Reference[Any]) -> Pair:
    """Return the collection with what was there before it.

    Raises:
        DoesNotExist: Nothing of it is there any more.
    """
    current = _current(collection)
    with current.work() as work:
        row = work.row_named(current.existing(work).name + PREVIOUS)
    if row is None:
        raise DoesNotExist(f"Collection {collection.name!r} has no vectors of a model before this")
    return _pair(current, PREVIOUS, _known(collection, row.model_id))


def _current(collection: Reference[Any]) -> Reference[Any]:
    return replace(collection, model=None, model_id=None, create=False)


def _pair(current: Reference[Any], suffix: str, model: SupportsEmbedding) -> Pair:
    name = current.name + suffix
    return Pair(current, replace(current, name=name, model=model, renamed=[]), model)


def _known(collection: Reference[Any], model_id: str) -> SupportsEmbedding:
    given = collection.model
    if given is not None and given.model_id == model_id:
        return registry.substituted(given)
    if model_id in collection.brought:
        return collection.brought[model_id]
    return registry.get_embedding_model(model_id)


@retried
def _begin(current: Reference[Any], model_id: str) -> str | None:
    """Return which of the names it has; None if the collection is of this model."""
    with current.work(write=True) as work:
        row = current.existing(work)
        if stands_beside(row.name):
            raise InvalidQueryError(
                f"{row.name!r} is what stands beside a collection: call reembed() of that one"
            )
        if registry.canonical_id(row.model_id) == model_id:
            return None
        name = whole.checked_name(row.name + NEXT)
        built, before = map(work.row_named, names_beside(row.name))
        if before is not None:
            if registry.canonical_id(before.model_id) == model_id:
                return PREVIOUS
            raise ModelMismatchError(
                row.name + PREVIOUS,
                before.model_id,
                model_id,
                "It is there for back(): call drop_previous() first",
            )
        if built is None:
            work.database.insert_collection(work, name, model_id)
            _copy_own(work, row.id, name)
            work.row = current.row_of(work, NEXT)
            if row.chunks is not None:
                work.database.set_chunk_setting(work, row.chunks)
        elif registry.canonical_id(built.model_id) != model_id:
            raise ModelMismatchError(
                name,
                built.model_id,
                model_id,
                f"They are being made: go on with reembed({built.model_id!r}), or delete "
                f"{name!r} first",
            )
        return NEXT


def _copy_own(work: Work, collection_id: int, name: str) -> None:
    """Give a collection's row the values that another one has in a host's own columns."""
    table = work.records.collections
    own = [column for column in table.columns if column.name not in {"id", "name", "model"}]
    if own:
        values = work.run(select(*own).where(table.c.id == collection_id)).one()
        work.run(
            update(table).where(table.c.name == name).values(dict(zip(own, values, strict=True)))
        )


# Compared


class Stamp(NamedTuple):
    """What of a row tells whether it was changed."""

    content_hash: bytes | None
    updated: int | None
    metadata: str | None
    is_text: bool
    is_binary: bool
    own: tuple[Any, ...]
    """Values of a host's own columns."""


def own_columns(table: Table) -> list[Column[Any]]:
    """Return a host's own columns of embeddings."""
    return [column for column in table.columns if column.name not in COLUMNS]


def stamps(work: Work, collection_id: int, *conditions: Any, limit: int = 0) -> dict[str, Stamp]:
    """Return the stamps of rows of a collection by their ids, in the order of these."""
    columns = work.records.embeddings.c
    statement = _stamped(work, collection_id).where(*conditions).order_by(columns.id)
    rows = work.run(statement.limit(limit) if limit else statement)
    return {id: _stamp(values) for id, *values in rows}


class Source(NamedTuple):
    """What there is of an item.

    Attributes:
        rows: Its one row, or those of its chunks, by their ids.
        content: None if it is not stored.
    """

    rows: dict[str, Stamp]
    content: Content | None


def sources(work: Work, items: Sequence[str]) -> dict[str, Source]:
    """Return some items of a collection, the current one of the work; those that are there.

    Contents are read after the rows: one that changes in between is not that of its rows, and an
    item that is deleted in between is not there.
    """
    columns = work.records.embeddings.c
    cut = work.row.chunks is not None
    firsts = {chunk_id(item, 0) if cut else item: item for item in items}
    kept = parts.kept_parts(work, firsts)
    ids = {
        item: [chunk_id(item, number) for number in range(kept[id].chunks or 1)]
        if cut and id in kept
        else [id]
        for id, item in firsts.items()
    }
    is_one = work.database.is_one_of(columns.id, [id for each in ids.values() for id in each])
    rows = stamps(work, work.row.id, is_one)
    stored, there = _stored_contents(work, list(firsts))
    found = {
        item: Source({id: rows[id] for id in ids[item] if id in rows}, stored.get(id))
        for id, item in firsts.items()
        if id in there
    }
    return {item: source for item, source in found.items() if source.rows}


def _stored_contents(work: Work, ids: list[str]) -> tuple[dict[str, Content], set[str]]:
    """Return contents of items, by the ids of their first rows, and which of these there are."""
    columns = work.records.embeddings.c
    rows = select(columns.id, columns.content, columns.content_blob).where(
        columns.collection_id == work.row.id, work.database.is_one_of(columns.id, ids)
    )
    found: dict[str, Content] = {}
    there: set[str] = set()
    for id, text, blob in work.run(rows):
        there.add(id)
        if (content := blob if text is None else text) is not None:
            found[id] = content
    if work.row.chunks is not None:
        of = work.database.parts(work).c
        whole = select(of.id, of.item_content, of.item_chunks).where(
            work.database.is_one_of(of.id, ids)
        )
        for id, text, count in work.run(whole):
            if text is not None:
                found[id] = text
            elif (count or 1) > 1:  # what the row has is the first chunk alone
                found.pop(id, None)
    return found, there


def _stamped(work: Work, collection_id: int) -> Select[Any]:
    columns = work.records.embeddings.c
    return select(
        columns.id,
        columns.content_hash,
        columns.updated,
        cast(columns.metadata, Text),
        columns.content.is_not(None),
        columns.content_blob.is_not(None),
        *own_columns(work.records.embeddings),
    ).where(columns.collection_id == collection_id)


def _stamp(values: Sequence[Any]) -> Stamp:
    digest, updated, metadata, is_text, is_binary, *own = values
    return Stamp(digest, updated, metadata, bool(is_text), bool(is_binary), tuple(own))


class Page(NamedTuple):
    """Some rows of a collection, with those that stand beside it."""

    current: dict[str, Stamp]
    other: dict[str, Stamp]


def page(work: Work, ids: tuple[int, int], after: str | None) -> tuple[Page, str | None]:
    """Return the rows after an id, and the last id; None if there are no more.

    Args:
        work: In whose transaction.
        ids: Of the collection, and of what stands beside it.
        after: None for the first page.
    """
    column = work.records.embeddings.c.id
    is_next = work.database.has_id(column) if after is None else column > after
    current = stamps(work, ids[0], is_next, limit=PAGE)
    upto = next(reversed(current)) if len(current) == PAGE else None
    conditions = [is_next] if upto is None else [is_next, column <= upto]
    return Page(current, stamps(work, ids[1], *conditions)), upto


def of_both(work: Work, ids: tuple[int, int], rows: Collection[str]) -> Page:
    """Return some rows of both, by their ids."""
    is_one = work.database.is_one_of(work.records.embeddings.c.id, rows)
    current, other = (stamps(work, each, is_one) for each in ids)
    return Page(current, other)


def all_ids(work: Work, ids: tuple[int, int]) -> set[str]:
    """Return the ids of all rows of the two."""
    columns = work.records.embeddings.c
    return {*work.run(select(columns.id).where(columns.collection_id.in_(ids))).scalars()}


def unlike(work: Work, ids: tuple[int, int], *, but: Collection[str] = ()) -> list[str]:
    """Return the ids of rows that the two have not alike, as the database compares them.

    Args:
        work: In whose transaction.
        ids: Of the collection, and of what stands beside it.
        but: Columns of a `Stamp` that are not compared.
    """
    current, other = (_compared(work, each, but).subquery() for each in ids)
    differ = (
        one.is_distinct_from(another)
        for one, another in zip(current.c, other.c, strict=True)
        if one.key != "id"
    )
    changed = (
        select(current.c.id)
        .select_from(current.outerjoin(other, current.c.id == other.c.id))
        .where(or_(other.c.id.is_(None), *differ))
    )
    gone = (
        select(other.c.id)
        .select_from(other.outerjoin(current, current.c.id == other.c.id))
        .where(current.c.id.is_(None))
    )
    return [*work.run(changed).scalars(), *work.run(gone).scalars()]


def _compared(work: Work, collection_id: int, but: Collection[str]) -> Select[Any]:
    """Return the SELECT of the columns of stamps, of types that a database compares."""
    id, *columns = _stamped(work, collection_id).selected_columns
    own = len(own_columns(work.records.embeddings))
    names = (*Stamp._fields[:-1], *["own"] * own)
    compared = [
        (cast(each, Text) if isinstance(each.type, JSON) else each).label(f"column_{at}")
        for at, (name, each) in enumerate(zip(names, columns, strict=True))
        if name not in but
    ]
    table = work.records.embeddings
    return select(id, *compared).where(table.c.collection_id == collection_id)


def are_hashed_alike(pair: Pair) -> bool:
    """Return whether both have the same hash of the same content."""
    try:
        model = pair.current.read_model()
    except LookupError:  # nobody knows it any more
        return False
    prefixes = (getattr(each, "document_prefix", "") for each in (model, pair.model))
    return len({*prefixes}) == 1


def are_cut(pair: Pair) -> bool:
    """Return whether the texts are cut into chunks."""
    with pair.current.work() as work:
        return pair.current.existing(work).chunks is not None


# Settings


def have_same_settings(pair: Pair) -> None:
    """Let what stands beside have the indexes that the collection has."""
    with pair.current.work() as work:
        row = pair.current.existing(work)
        index = work.database.index_info(work)
    with pair.other.work() as work:
        beside = pair.other.existing(work)
        its_index = work.database.index_info(work)
    if beside.language != row.language:
        if beside.language is not None:
            text_index.drop_text_index(pair.other)
        if row.language is not None:
            text_index.make(pair.other, row.language)
    has_one = its_index is not None and its_index.is_valid
    if index is not None and index.is_valid and not has_one and beside.vector_bytes is not None:
        options = {name: index.options.get(name) for name in ("m", "ef_construction")}
        pair.other.database.create_index(pair.other, IndexRequest(index.method, **options))


# Switched


def switch(pair: Pair, is_ready: Callable[[Work, tuple[int, int]], bool]) -> bool:
    """Let each have the other's name, and return whether they have: in one transaction.

    Args:
        pair: The two.
        is_ready: Tells, within the transaction that keeps other writers out, whether nothing is
            missing; of the ids of the two.

    Raises:
        DoesNotExist: Another process has switched.
    """
    try:
        is_switched = _switch(pair.current, pair.other.name, is_ready)
    except DBAPIError as error:
        owns = pair.current.sessions.owns_transactions
        if not owns or not pair.current.database.was_kept_waiting(error):
            raise
        return False
    if is_switched:
        pair.current.forget()
    return is_switched


@retried
def _switch(
    current: Reference[Any], other: str, is_ready: Callable[[Work, tuple[int, int]], bool]
) -> bool:
    columns = current.records.collections.c
    with current.work(write=True) as work:
        if current.sessions.owns_transactions:
            work.database.wait_briefly(work)
        before = current.existing(work)
        work.database.lock_collection(work)
        row, beside = current.existing(work), work.row_named(other)
        if beside is None or row.id != before.id:
            raise DoesNotExist(f"Collection {other!r} does not exist")
        if row.language != beside.language or not is_ready(work, (row.id, beside.id)):
            return False
        for name, new in (
            (other, row.name + SWITCHING),
            (row.name, row.name + PREVIOUS),
            (row.name + SWITCHING, row.name),
        ):
            work.run(
                update(current.records.collections).where(columns.name == name).values(name=new)
            )
        return True


def has_switched(pair: Pair) -> bool:
    """Return whether the collection is of the other's model by now: another process may do it."""
    with pair.current.work() as work:
        return pair.current.existing(work).model_id == pair.model.model_id


def drop_previous(collection: Reference[Any]) -> bool:
    """Delete what was there before. See `Collection.drop_previous`."""
    current = _current(collection)
    row, gone = _drop_previous(current)
    collection.accept(row)
    if gone is not None:
        collection.database.after_deletion(collection, gone)
    return gone is not None


@retried
def _drop_previous(current: Reference[Any]) -> tuple[CollectionRow, CollectionRow | None]:
    with current.work(write=True) as work:
        row = current.existing(work)
        gone = work.row_named(row.name + PREVIOUS)
        if gone is not None:
            whole.remove(current, work, gone)
        return row, gone
