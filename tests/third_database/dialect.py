"""A database of a stranger's: SQLite's driver under another name, and the port's defaults."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from alembic.ddl.impl import DefaultImpl
from sqlalchemy import Text, and_, case, exists, false, func, literal, or_, select, type_coerce
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from embeddings import databases
from embeddings.databases.base import Database
from embeddings.searching.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql.selectable import TableValuedAlias

    from embeddings.searching.entries import Ranking
    from embeddings.searching.filters import Comparison
    from embeddings.searching.query import Query
    from embeddings.vectors import Float64
    from embeddings.work.operation import Work


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
        self, metadata: ColumnElement[Any], comparison: Comparison
    ) -> ColumnElement[bool]:
        """Look for each name of the path among those of the object."""
        member = members(type_coerce(metadata, Text))
        conditions: list[ColumnElement[bool]] = [member.c.key == comparison.path[0]]
        for name in comparison.path[1:]:
            member = members(case((member.c.type == "object", member.c.value)))
            conditions.append(member.c.key == name)
        if comparison.operator == "$contains":
            member = members(case((member.c.type == "array", member.c.value)))
        values = [comparison.value]
        if comparison.operator == "$in":
            values = list(comparison.value)
        if comparison.operator != "$exists":
            order = ORDER.get(comparison.operator, operator.eq)
            conditions.append(or_(false(), *(is_(member, order, value) for value in values)))
        return exists(select(1).where(*conditions))


ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def members(json: ColumnElement[Any]) -> TableValuedAlias:
    """Return what is in an array or an object."""
    names = ("key", "value", "type")
    return func.json_each(json).table_valued(*names, joins_implicitly=True)


def is_(member: TableValuedAlias, order: Callable[..., Any], value: Any) -> ColumnElement[bool]:
    """Return whether a member is of a value's kind, and as the value in some order."""
    if value is None or isinstance(value, bool):
        return member.c.type == {None: "null", True: "true", False: "false"}[value]
    kinds = ["text"] if isinstance(value, str) else ["integer", "real"]
    return and_(member.c.type.in_(kinds), order(member.c.value, literal(value)))


registry.register("third", __name__, "ThirdDialect")
registry.register("unknown", __name__, "UnknownDialect")
databases.register(Third())
