"""A database of a stranger's: SQLite's driver under another name, and the port's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.ddl.impl import DefaultImpl
from sqlalchemy import Text, exists, func, select, type_coerce
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from embeddings import databases
from embeddings.databases.base import Database
from embeddings.searching.scan import scan

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from embeddings.searching.query import Query, Ranking
    from embeddings.vectors import Float64
    from embeddings.work import Work


class ThirdDialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's dialect of SQLite, which calls itself otherwise."""

    name = "third"
    supports_statement_cache = True


class ThirdImpl(DefaultImpl):
    """What Alembic has to know of a dialect."""

    __dialect__ = "third"
    transactional_ddl = True


class UnknownDialect(ThirdDialect):
    """The same, of which this library has not been told."""

    name = "unknown"
    supports_statement_cache = True


class Third(Database):
    """What a database has to bring along: its name, a search, and a look into its JSON."""

    name = "third"

    def search(self, work: Work, vector: Float64, query: Query) -> Ranking:
        """Read the rows."""
        return scan(work, vector, query)

    def metadata_is(
        self, metadata: ColumnElement[Any], key: str, value: Any
    ) -> ColumnElement[bool]:
        """Look for the key among those of the object."""
        member = func.json_each(type_coerce(metadata, Text)).table_valued(
            "key", "value", "type", joins_implicitly=True
        )
        conditions: list[ColumnElement[bool]] = [member.c.key == key]
        if value is None or isinstance(value, bool):
            conditions.append(member.c.type == {None: "null", True: "true", False: "false"}[value])
        else:
            kinds = ["text"] if isinstance(value, str) else ["integer", "real"]
            conditions += [member.c.type.in_(kinds), member.c.value == value]
        return exists(select(1).select_from(member).where(*conditions))


registry.register("third", __name__, "ThirdDialect")
registry.register("unknown", __name__, "UnknownDialect")
databases.register(Third())
