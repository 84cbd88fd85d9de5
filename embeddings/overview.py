"""What a database holds: its schema's revision, and each collection. For people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, inspect, select

from .collection import Collection
from .databases.status import NOT_LOADED
from .errors import SchemaError
from .following import triggers
from .following.pending import counts
from .sessions import bind_for_reading
from .tables.custom import found
from .tables.lost import lost
from .tables.migrate import current_revision, head_revision
from .tables.ours import check_adoptable, schema_found
from .tables.pending import pending_table
from .tables.records import RECORDS
from .vectors import ITEM_BYTES
from .work.operation import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from .following.literals import Follow
    from .following.source import ModelCollection
    from .sessions import DatabaseLike
    from .tables.records import Records
    from .writing.chunks import Chunks

REMEDY = (
    "Make the triggers as they are declared: in a new revision (op.follow_rows, which autogenerate "
    "writes), or by install() of the declaration. What changed meanwhile is found by its sync()."
)
HEADINGS = ("collection", "model", "dimensions", "rows", "search")


@dataclass(frozen=True)
class Declaration:
    """What a host declares of a collection, where that is no `ModelCollection`.

    Attributes:
        name: The collection's.
        model: The id or alias of the model.
        chunks: How the texts are cut.
        trigger_problems: What tells how the triggers are not as declared.
    """

    name: str
    model: str | None
    chunks: Chunks | None
    trigger_problems: Callable[[], Sequence[str]]


@dataclass(frozen=True)
class CollectionOverview:
    """One collection.

    Attributes:
        name: Its name.
        model_id: The id of its embedding model.
        dimensions: Of its vectors; None if it has none.
        rows: The items in it.
        strategy: How searches go about it, once a process has what it keeps in memory:
            `"matrix"`, `"scan"`, `"database"` or `"index"`.
        reason: Why it scans; None if it does not.
        table: The table of its embeddings, which is another with `make_records`.
        wanted: The id of the model that its declaration or the settings name, if that is another.
        chunks: How its texts are cut; None if they are not.
        wanted_chunks: How its declaration says that they are to be cut, if that is another way.
    """

    name: str
    model_id: str
    dimensions: int | None
    rows: int
    strategy: str
    reason: str | None
    table: str = RECORDS.embeddings.name
    wanted: str | None = None
    chunks: str | None = None
    wanted_chunks: str | None = None


@dataclass(frozen=True)
class FollowedOverview:
    """One table whose rows a collection follows, or is declared to.

    Attributes:
        collection: The name of the collection.
        table: The host's table.
        pending: Rows whose vector is not up to date.
        problems: What of the triggers is missing, disabled or not as declared.
        is_declared: Whether it is declared here, or nothing is. Else another program declares it,
            or none any more.
        failing: Of the pending rows those that could not be embedded.
        parked: Of these those that are tried no more before they change.
    """

    collection: str
    table: str
    pending: int
    problems: tuple[str, ...] = ()
    is_declared: bool = True
    failing: int = 0
    parked: int = 0

    @property
    def shown_pending(self) -> str:
        """How many are pending, and failing, for a person to read."""
        if not self.failing:
            return f"{self.pending:,}"
        return f"{self.pending:,} ({self.failing:,} failing, {self.parked:,} parked)"


@dataclass(frozen=True)
class Overview:
    """A database; as a string, a table to read.

    Attributes:
        revision: Of the schema in the database; None where `migrate` never ran, as where all
            tables are of `make_records`.
        head: Of the schema that this version of the library works with.
        collections: By table and name.
        tables: The tables of embeddings.
        followed: The host's tables whose rows collections follow.
    """

    revision: str | None
    head: str
    collections: tuple[CollectionOverview, ...]
    tables: tuple[str, ...] = ()
    followed: tuple[FollowedOverview, ...] = ()
    lost: tuple[str, ...] = ()
    """What others have removed from beside the tables, and what makes it again."""
    warnings: tuple[str, ...] = ()
    """What makes statements slow, and what to do about it."""

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to migrate, and nothing was lost."""
        if self.lost:
            return False
        are_the_hosts = bool(self.tables) and RECORDS.embeddings.name not in self.tables
        return self.revision == self.head or (self.revision is None and are_the_hosts)

    @property
    def is_followed(self) -> bool:
        """Whether all triggers on the host's tables are in place."""
        return not any(one.problems for one in self.followed)

    def __str__(self) -> str:
        return self.text()

    def text(self, remedy: str = REMEDY) -> str:
        """Return a table to read.

        Args:
            remedy: What to do about triggers that are not in place.
        """
        parts = (self._collections(), *self.warnings, self._followed(remedy))
        return "\n\n".join(filter(None, parts))

    def _followed(self, remedy: str) -> str:
        """Return what is followed, and what to do about triggers."""
        if not self.followed:
            return ""
        lines = [("followed", "table", "pending", "triggers")]
        for one in self.followed:
            well = "in place" if one.is_declared else "in place, but not declared here"
            triggers = "; ".join(one.problems) or well
            lines.append((one.collection, one.table, one.shown_pending, triggers))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = [
            f"{name:{widths[0]}}  {table:{widths[1]}}  {pending:>{widths[2]}}  {triggers}"
            for name, table, pending, triggers in lines
        ]
        return "\n".join(rows if self.is_followed else [*rows, "", remedy])

    def _collections(self) -> str:
        if self.lost:
            schema = "\n".join(f"Not whole: {lost}." for lost in self.lost)
        elif self.is_current and self.revision is None:
            schema = f"Tables of your own migrations: {', '.join(self.tables)}."
        elif self.is_current:
            schema = f"Schema {self.head}, up to date."
        elif self.revision is None:
            schema = f"No schema: migrate to {self.head}."
        else:
            schema = f"Schema {self.revision}, but this library's is {self.head}: migrate."
        if not self.collections:
            return f"{schema}\nNo collections."
        has_one = {one.table for one in self.collections} == {RECORDS.embeddings.name}
        lines = [HEADINGS, *map(_cells, self.collections)]
        if not has_one:
            tables = ["table", *(one.table for one in self.collections)]
            lines = [(*cells, table) for cells, table in zip(lines, tables, strict=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join([schema, "", *(_line(cells, widths) for cells in lines)])


def overview(
    db: DatabaseLike,
    declared: Sequence[ModelCollection[Any]] = (),
    others: Sequence[Declaration] = (),
    follows: Sequence[Follow] = (),
    own: Records = RECORDS,
) -> Overview:
    """Return what a database holds. Reads only: on a session within its transaction.

    Args:
        db: Whatever a collection can be opened on. Nothing is created or migrated.
        declared: Whose triggers are compared with what is declared; others with what they were
            made from.
        others: What the host declares by other means.
        follows: What triggers were made from, by what the host knows of it.
        own: The application's tables. Those of others are shown, too.

    Raises:
        SchemaError: A table called `collections` or `embeddings` is there and is not ours.
    """
    sessions = bind_for_reading(db, RECORDS)
    if sessions is None:  # a file that is not there
        return Overview(None, head_revision(), ())
    try:
        with sessions.session(write=False) as session:
            work = Work(session, RECORDS)
            records = tables_in(work.connection, own)
            models = {each.name: each.declared_model for each in declared}
            models |= {each.name: each.model for each in others}
            chunks = {each.name: each.chunks for each in declared}
            chunks |= {each.name: each.chunks for each in others}
            collections = [
                one for each in records for one in _collections(Work(session, each), models, chunks)
            ]
            return Overview(
                current_revision(work.connection),
                head_revision(),
                tuple(collections),
                tuple(each.embeddings.fullname for each in records),
                tuple(
                    one
                    for each in records
                    for one in _followed(Work(session, each), declared, others, follows)
                ),
                tuple(_lost(work.connection, records, own)),
                tuple(
                    filter(None, (work.database.warning(work.connection, each) for each in records))
                ),
            )
    finally:
        sessions.close()


def tables_in(connection: Connection, own: Records = RECORDS) -> list[Records]:
    """Return the records whose tables are in a database: ours, and those of `make_records`.

    Args:
        connection: To the database.
        own: The application's tables.

    Raises:
        SchemaError: A table called `collections` or `embeddings` is there and is not ours.
    """
    records = found(connection)
    try:
        check_adoptable(connection)
    except SchemaError:  # somebody else's, beside which ours have other names
        theirs = RECORDS.embeddings.fullname
        records = [each for each in records if each.embeddings.fullname != theirs]
        if not records and own is RECORDS:
            raise
    return records


def _lost(connection: Connection, records: Sequence[Records], own: Records) -> Iterator[str]:
    is_migrated = current_revision(connection) == head_revision()
    for each in records:
        name = each.embeddings.fullname
        if name == RECORDS.embeddings.fullname and not is_migrated:
            continue
        migrates = name in {RECORDS.embeddings.fullname, own.embeddings.fullname}
        remedy = "migrate" if migrates else "call embeddings.install(engine, records)"
        yield from (f"{what}: {remedy}" for what in lost(connection, each))


def _followed(
    work: Work,
    declared: Sequence[ModelCollection[Any]],
    others: Sequence[Declaration],
    follows: Sequence[Follow],
) -> Iterator[FollowedOverview]:
    connection, table = work.connection, pending_table(work.records)
    schema = schema_found(connection, table.name, table.schema)
    pending: dict[str, tuple[int, int, int]] = {}
    is_there = inspect(connection).has_table(table.name, schema)
    if is_there and work.database.may_read(connection, table.name, schema):
        pending = counts(work)
    known = set()
    for each in declared:
        if each.records.embeddings.fullname == work.records.embeddings.fullname:
            known.add(each.name)
            problems = tuple(triggers.problems(connection, each))
            host = each.mapper.local_table.fullname  # type: ignore[attr-defined]
            waiting, *failing = pending.get(each.name, (0, 0, 0))
            yield FollowedOverview(each.name, host, waiting, problems, True, *failing)
    made = work.database.follows(connection, work.records)
    there = {(given.collection, given.table) for given in made}
    gone = {
        (given.collection, given.table): given
        for given in follows
        if given.embeddings == work.records.embeddings.fullname
    }
    made += [given for key, given in gone.items() if key not in there]
    differences = {each.name: each.trigger_problems for each in others}
    for given in made:
        if given.collection not in known:
            problems = tuple(triggers.as_made(connection, given))
            if not problems and given.collection in differences:
                problems = tuple(differences[given.collection]())
            host = ".".join(filter(None, (given.schema, given.table)))
            waiting, *failing = pending.get(given.collection, (0, 0, 0))
            is_declared = given.collection in differences or not (declared or others)
            yield FollowedOverview(given.collection, host, waiting, problems, is_declared, *failing)


def _collections(
    work: Work, models: Mapping[str, str | None], chunks: Mapping[str, Chunks | None]
) -> tuple[CollectionOverview, ...]:
    name, embeddings = work.records.collections.c.name, work.records.embeddings.c
    found = []
    for called in work.run(select(name).where(name.is_not(None)).order_by(name)).scalars().all():
        row = work.row_named(called)
        if row is not None:
            rows = select(func.count()).where(embeddings.collection_id == row.id)
            one = CollectionOverview(
                row.name,
                row.model_id,
                row.vector_bytes and row.vector_bytes // ITEM_BYTES,
                work.run(rows).scalar_one(),
                *how_searched(Collection(row.name, work.session, records=work.records)),
                work.records.embeddings.fullname,
                _wanted(work, row.name, models.get(row.name)),
                row.chunks,
                _wanted_chunks(work, row.name, chunks.get(row.name)),
            )
            found.append(one)
    return tuple(found)


def _wanted(work: Work, name: str, model_id: str | None) -> str | None:
    collection = Collection(name, work.session, model_id=model_id, records=work.records)
    differing = collection.reference.other_model(work)
    return None if differing is None else differing[1]


def _wanted_chunks(work: Work, name: str, chunks: Chunks | None) -> str | None:
    collection = Collection(name, work.session, chunks=chunks, records=work.records)
    differing = collection.reference.other_chunks(work)
    return None if differing is None else differing[1]


def how_searched(collection: Collection[Any]) -> tuple[str, str | None]:
    """Return the strategy, and why it is not another: that of a process that goes on searching."""
    status = collection.status()
    if status.reason == NOT_LOADED:  # as in each program that only looks
        return "matrix", None
    return status.strategy, status.reason


def _cells(collection: CollectionOverview) -> tuple[str, ...]:
    dimensions = "-" if collection.dimensions is None else str(collection.dimensions)
    search = ": ".join(filter(None, (collection.strategy, collection.reason)))
    return collection.name, collection.model_id, dimensions, f"{collection.rows:,}", search


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    name, model_id, dimensions, rows, search, *table = cells
    aligned = (
        name.ljust(widths[0]),
        model_id.ljust(widths[1]),
        dimensions.rjust(widths[2]),
        rows.rjust(widths[3]),
        search.ljust(widths[4]),
        *table,
    )
    return "  ".join(aligned).rstrip()
