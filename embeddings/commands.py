"""What the commands do, whoever offers them: the program `embeddings`, Flask or Django.

Each reads a database, and returns what to print and whether that is good news, by which the program
ends with 0 or with 1.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from . import databases
from .collection import Collection
from .errors import DoesNotExist, InvalidQueryError, ModelRequiredError
from .following import commands as following
from .overview import REMEDY, how_searched, overview, tables_in
from .sessions import bind_for_reading, is_missing_file
from .tables.ours import schema_found
from .tables.records import RECORDS
from .work.operation import Work
from .work.row import shown_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

    from .following.literals import Follow
    from .following.source import ModelCollection
    from .overview import Declaration
    from .searching.entries import Entry
    from .sessions import DatabaseLike
    from .sessions.base import Sessions
    from .tables.records import EmbeddingRecord, Records
    from .writing.progress import Progress
    from .writing.report import Report

SHOWN = 60  # characters of a content in a list


@dataclass(frozen=True)
class Outcome:
    """What a command found.

    Attributes:
        text: To print.
        is_good: Whether the program ends with 0.
        failure: Why it does not, where there are several reasons.
    """

    text: str
    is_good: bool = True
    failure: str = ""


def status(
    db: DatabaseLike,
    *,
    as_json: bool = False,
    declared: Sequence[ModelCollection[Any]] = (),
    others: Sequence[Declaration] = (),
    follows: Sequence[Follow] = (),
    own: Records = RECORDS,
    program: str = following.PROGRAM,
    remedy: str = REMEDY,
    migrate: str = "",
) -> Outcome:
    """Return the schema, every collection, and what is followed.

    It is bad if there is something to migrate, or triggers are not in place.

    Args:
        db: Nothing is created or migrated there.
        as_json: As a JSON object, and not as a table.
        declared: Whose triggers are compared with what is declared.
        others: What is declared by other means.
        follows: What triggers were made from, as the host knows: they may be gone.
        own: The application's tables.
        program: What one types before the name of a command.
        remedy: What to do about triggers that are not in place.
        migrate: What one types where there is something to migrate.

    Raises:
        DoesNotExist: There is not even the database's file.
    """
    if is_missing_file(db):
        raise no_such_file("The database")
    found = overview(db, declared, others, follows, own)
    is_good = found.is_current and found.is_followed
    failures = ["There are triggers that are not in place."] * (not found.is_followed)
    failures += [f"What the schema lacks: {migrate}"] * (not found.is_current)
    failure = " ".join(failures)
    if as_json:
        return Outcome(_json(asdict(found)), is_good, failure)
    declarations = {each.name for each in declared} | {each.name for each in others}
    undeclared = {one.collection for one in found.followed} - declarations
    differing = [
        following.of_another_model(
            one.name, one.model_id, one.wanted, program, is_undeclared=one.name in undeclared
        )
        for one in found.collections
        if one.wanted is not None
    ]
    differing += [
        following.of_other_chunks(one.name, one.chunks, one.wanted_chunks)
        for one in found.collections
        if one.wanted_chunks is not None
    ]
    text = "\n\n".join(filter(None, (found.text(remedy), "\n".join(differing))))
    return Outcome(text, is_good, failure)


def reembed(
    database: Any,
    name: str,
    model: str | None,
    *,
    declared: Sequence[following.Followed] = (),
    own: Records = RECORDS,
    table: str | None = None,
    back: bool = False,
    drop_previous: bool = False,
    progress: Progress = None,
) -> Outcome:
    """Embed a collection anew by another model, go back to the one before, or drop that.

    Args:
        database: What the declared collections take as their first argument.
        name: Of the collection. Of one that is declared the rows have the texts, of another one
            the stored contents are embedded.
        model: The id or alias; None for that of the declaration or the settings.
        declared: The collections that follow rows.
        own: The application's tables.
        table: That of the embeddings, where several tables have a collection of this name.
        back: Let it be of the model that it had before.
        drop_previous: Delete the vectors of the model before.
        progress: Called with the items done and the items in all; True draws a bar.

    Raises:
        ModelRequiredError: No model was named, and the collection has that of the settings.

        And what `Collection.reembed` raises.
    """
    records = _declared_records(name, declared, table)
    if records is None:
        with _reading(database, name) as sessions:
            records = _records_having(sessions, name, own, table)
    known = {each.records: each for each in declared if each.name == name}
    collection: Any = known.get(records) or _Stored(name, records)
    with following.ended_by_signals():
        if drop_previous:
            dropped = collection.drop_previous(database)
            what = "the vectors of the model before are deleted" if dropped else "nothing to drop"
            return Outcome(f"{name}: {what}")
        if back:
            return _reembedded(name, collection.back(database, progress=progress))
        if model is None:
            differing = following.other_model(collection, database)
            if differing is None:
                _ = collection.collection(database).id  # if there is no such, that is to be said
                raise ModelRequiredError(
                    f"{name!r} has the model of the settings: name the one that it is to have"
                )
            model = differing[1]
        return _reembedded(name, collection.reembed(database, model, progress=progress))


def _reembedded(name: str, report: Report) -> Outcome:
    return Outcome(following.done(name, report), not report.skipped)


class _Stored:
    """A collection that is not declared, as the commands know those that are."""

    declared_model = None

    def __init__(self, name: str, records: Records) -> None:
        self.name, self._records = name, records

    def collection(self, database: Any) -> Collection[Any]:
        return Collection(self.name, database, create=False, records=self._records)

    def reembed(self, database: Any, model: str, *, progress: Progress = None) -> Report:
        return self.collection(database).reembed(model, progress=progress)

    def back(self, database: Any, *, progress: Progress = None) -> Report:
        return self.collection(database).back(progress=progress)

    def drop_previous(self, database: Any) -> bool:
        return self.collection(database).drop_previous()


def distribute(
    connection: Connection,
    by: Literal["collection", "item"],
    *,
    undo: bool = False,
    records: Records = RECORDS,
) -> Outcome:
    """Distribute the tables over several servers, by Citus, or bring them back to one.

    Args:
        connection: To the coordinator; it is done in its transaction.
        by: Each collection on one server, or the items of each on all of them.
        undo: Bring them back.
        records: Which tables.

    Raises:
        SchemaError: The database has no Citus, or Citus would refuse them.
    """
    database = databases.of(connection.dialect)
    if undo:
        database.undistribute(connection, records)
        return Outcome("The tables are on one server.")
    database.distribute(connection, by, records)
    return Outcome(f"The tables are distributed by {by}.")


def search(
    db: DatabaseLike,
    name: str,
    text: str,
    *,
    number: int = 10,
    prefix: str | None = None,
    as_json: bool = False,
    declared: Sequence[following.Followed] = (),
    own: Records = RECORDS,
    table: str | None = None,
) -> Outcome:
    """Return what a collection has that is nearest to a text; bad if that is nothing.

    Args:
        db: Nothing is created or migrated there.
        name: Of the collection.
        text: What to search for, by the collection's own model.
        number: The most results.
        prefix: Only ids that begin with it.
        as_json: As a list of JSON objects, and not as lines of score, id and content.
        declared: The collections that follow rows.
        own: The application's tables.
        table: That of the embeddings, where several tables have a collection of this name.

    Raises:
        DoesNotExist: There is no such collection.

        And what `Collection.similar` raises.
    """
    with _collection(db, name, declared, own, table) as collection:
        collection.count()  # there has to be one
        entries = collection.similar(text, number, prefix)
    if as_json:
        return Outcome(_json([_entry(entry) for entry in entries]), bool(entries))
    lines = [(f"{entry.score:.4f}", entry.id, _short(entry.content)) for entry in entries]
    return Outcome(_aligned(lines) or "Nothing was found.", bool(entries))


def show(
    db: DatabaseLike,
    name: str,
    id: str | None = None,
    *,
    as_json: bool = False,
    declared: Sequence[following.Followed] = (),
    own: Records = RECORDS,
    table: str | None = None,
) -> Outcome:
    """Return what there is to know of a collection, or of one item in it.

    Args:
        db: Nothing is created or migrated there.
        name: Of the collection.
        id: The item's, as it is stored.
        as_json: As a JSON object, and not as lines.
        declared: The collections that follow rows.
        own: The application's tables.
        table: That of the embeddings, where several tables have a collection of this name.

    Raises:
        DoesNotExist: There is no such collection, or no such item in it.
    """
    with _collection(db, name, declared, own, table) as collection:
        facts = _facts(collection) if id is None else _item(collection, id)
    if as_json:
        return Outcome(_json(facts))
    return Outcome(_aligned([(key, _cell(value)) for key, value in facts.items()]))


@contextmanager
def _collection(
    db: DatabaseLike,
    name: str,
    declared: Sequence[following.Followed],
    own: Records,
    table: str | None,
) -> Iterator[Collection[str]]:
    """Yield a collection for reading, of a database that is left as it is."""
    with _reading(db, name) as sessions:
        records = _declared_records(name, declared, table)
        records = records or _records_having(sessions, name, own, table)
        yield Collection(name, sessions, create=False, records=records)


@contextmanager
def _reading(db: DatabaseLike, name: str) -> Iterator[Sessions]:
    sessions = bind_for_reading(db, RECORDS)
    if sessions is None:
        raise no_such_file(f"Collection {name!r}")
    try:
        sessions.eager = False  # a path would be migrated
        yield sessions
    finally:
        sessions.close()


def _declared_records(
    name: str, declared: Sequence[following.Followed], table: str | None
) -> Records | None:
    """Return the tables that the declaration of a collection names, if there is one."""
    return _one_of(name, [each.records for each in declared if each.name == name], table)


def _records_having(sessions: Sessions, name: str, own: Records, table: str | None) -> Records:
    """Return the tables in a database that have a collection which is not declared.

    Where none has it, those in which it would be.

    Raises:
        DoesNotExist: The table that was named has none.
        InvalidQueryError: Several have one.
    """
    with sessions.session(write=False) as session:
        there = tables_in(Work(session, own).connection, own)
        having = [each for each in there if _has(Work(session, each), name)]
    records = _one_of(name, having, table)
    if records is not None:
        return records
    if table is not None:
        raise DoesNotExist(f"There is no collection {name!r} in a table {table!r}")
    return own if own in there or not there else there[0]


def _has(work: Work, name: str) -> bool:
    for table in (work.records.collections, work.records.embeddings):
        schema = schema_found(work.connection, table.name, table.schema)
        if not work.database.may_read(work.connection, table.name, schema):
            return False
    return work.row_named(name) is not None


def _one_of(name: str, having: Sequence[Records], table: str | None) -> Records | None:
    """Return those of a table, or the only ones; None if there are none."""
    found = {each.embeddings.fullname: each for each in having}
    if table is None and len(found) > 1:
        raise InvalidQueryError(
            f"Several tables have a collection {name!r}: name one of them by --table, "
            + " or ".join(sorted(found))
        )
    return found.get(table) if table is not None else next(iter(found.values()), None)


def no_such_file(what: str) -> DoesNotExist:
    """Return the error that says that there is not even the database's file."""
    return DoesNotExist(f"{what} does not exist: there is no such file")


def _facts(collection: Collection[str]) -> dict[str, Any]:
    reference, (strategy, reason) = collection.reference, how_searched(collection)
    with reference.work() as work:
        row = reference.existing(work)
    index = collection.index_info()
    return {
        "name": collection.name,
        "model": collection.model_id,
        "items": collection.count(),
        "rows": collection.count(chunks=True),
        "chunks": None if row.chunks is None else shown_chunks(row.chunks),
        "text_index": row.language,
        "strategy": strategy,
        "reason": reason,
        "index": None if index is None else asdict(index),
    }


def _item(collection: Collection[str], id: str) -> dict[str, Any]:
    record = collection.get(id)
    if record is None:
        raise collection.reference.id_not_found(id)
    return {
        "id": record.id,
        "chunks": len(collection.get_chunks(id)),
        "dimensions": None if record.embedding is None else len(record.embedding),
        "updated": _time(record),
        "metadata": record.metadata_,
        "content": record.content,
        "content_bytes": None if record.content_blob is None else len(record.content_blob),
    }


def _time(record: EmbeddingRecord) -> str | None:
    if record.updated is None:
        return None
    return datetime.fromtimestamp(record.updated, UTC).isoformat()


def _entry(entry: Entry[Any]) -> dict[str, Any]:
    """Return a result's fields, and the chunk by which it was found, where there are chunks."""
    return asdict(entry) | ({} if entry.chunk is None else {"chunk": asdict(entry.chunk)})


def _json(found: object) -> str:
    return json.dumps(found, ensure_ascii=False)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return _json(value)
    return "-" if value is None else str(value)


def _short(content: str | None) -> str:
    text = " ".join((content or "").split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Return cells in columns, of which the last is as long as it is."""
    if not lines:
        return ""
    *widths, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), last])
        for line in lines
        for last in line[-1:]
    )
