"""What a database holds: its schema's revision, and each collection. For people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from .collection import Collection
from .errors import SchemaError
from .sessions import bind_for_reading
from .tables.custom import found
from .tables.migrate import current_revision, head_revision
from .tables.ours import check_adoptable
from .tables.records import RECORDS
from .vectors import ITEM_BYTES
from .work import Work, stored_vector_bytes

if TYPE_CHECKING:
    from .sessions import DatabaseLike

HEADINGS = ("collection", "model", "dimensions", "rows", "search")


@dataclass(frozen=True)
class CollectionOverview:
    """One collection.

    Attributes:
        name: Its name.
        model_id: The id of its embedding model.
        dimensions: Of its vectors; None if it has none.
        rows: The items in it.
        strategy: How a search in this process would go about it: `"matrix"`, `"scan"`,
            `"database"` or `"index"`.
        reason: Why it scans; None if it does not.
        table: The table of its embeddings, which is another with `make_records`.
    """

    name: str
    model_id: str
    dimensions: int | None
    rows: int
    strategy: str
    reason: str | None
    table: str = RECORDS.embeddings.name


@dataclass(frozen=True)
class Overview:
    """A database; as a string, a table to read.

    Attributes:
        revision: Of the schema in the database; None where `migrate` never ran, as where all
            tables are of `make_records`.
        head: Of the schema that this version of the library works with.
        collections: By table and name.
        tables: The tables of embeddings.
    """

    revision: str | None
    head: str
    collections: tuple[CollectionOverview, ...]
    tables: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to migrate."""
        are_the_hosts = bool(self.tables) and RECORDS.embeddings.name not in self.tables
        return self.revision == self.head or (self.revision is None and are_the_hosts)

    def __str__(self) -> str:
        if self.is_current and self.revision is None:
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


def overview(db: DatabaseLike) -> Overview:
    """Return what a database holds. Reads only: on a session within its transaction.

    Args:
        db: Whatever a collection can be opened on. Nothing is created or migrated.

    Raises:
        SchemaError: A table called `collections` or `embeddings` is there and is not ours.
    """
    sessions = bind_for_reading(db, RECORDS)
    if sessions is None:  # a file that is not there
        return Overview(None, head_revision(), ())
    try:
        with sessions.session(write=False) as session:
            work = Work(session, RECORDS)
            records = found(work.connection)
            try:
                check_adoptable(work.connection)
            except SchemaError:  # somebody else's, beside which ours have other names
                theirs = RECORDS.embeddings.fullname
                records = [each for each in records if each.embeddings.fullname != theirs]
                if not records:
                    raise
            collections = [one for each in records for one in _collections(Work(session, each))]
            return Overview(
                current_revision(work.connection),
                head_revision(),
                tuple(collections),
                tuple(each.embeddings.fullname for each in records),
            )
    finally:
        sessions.close()


def _collections(work: Work) -> tuple[CollectionOverview, ...]:
    collections, embeddings = work.records.collections.c, work.records.embeddings.c
    rows = select(func.count()).where(embeddings.collection_id == collections.id).scalar_subquery()
    vector_bytes = stored_vector_bytes(work.database, work.records)
    statement = (
        select(collections.name, collections.model, vector_bytes, rows)
        .where(collections.name.is_not(None))
        .order_by(collections.name)
    )
    return tuple(
        CollectionOverview(
            name,
            model_id,
            size and size // ITEM_BYTES,
            count,
            *_search(work, name),
            work.records.embeddings.fullname,
        )
        for name, model_id, size, count in work.run(statement).all()
    )


def _search(work: Work, name: str) -> tuple[str, str | None]:
    collection = Collection(name, work.session, records=work.records)
    index = collection.index_info()
    if index is not None and index.is_valid:
        return "index", None
    status = collection.status()
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
