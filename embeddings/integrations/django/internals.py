"""What Django keeps to itself and this integration needs, in one place, each with its reason.

Checked with Django 5.2 and 6.1.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from django.core.management.commands import flush
from django.db.models.query import ModelIterable
from django.db.models.sql import Query

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, Model, Q, QuerySet


def is_flushing() -> bool:
    """Return whether the command `flush` is at work.

    It empties the tables of Django models past the ORM, and sends a signal that others send, too.
    """
    frame = sys._getframe()
    while frame is not None and frame.f_code is not flush.Command.handle.__code__:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def yields_instances(queryset: QuerySet[Any]) -> bool:
    """Return whether a queryset is one of instances: without `values()` and `values_list()`."""
    return issubclass(queryset._iterable_class, ModelIterable)


def with_parameters_written_in(connection: BaseDatabaseWrapper, sql: str, parameters: Any) -> str:
    """Return the SQL text that Django itself sends to PostgreSQL, with its parameters in it.

    Django's SQL is not made for parameters that have a type, as other cursors send them.
    """
    operations: Any = connection.ops
    text: str = operations.compose_sql(sql, parameters)
    return text


def condition_sql(
    connection: BaseDatabaseWrapper, model: type[Model], condition: Q
) -> tuple[str, list[Field[Any, Any]]]:
    """Return a condition as SQL over bare columns with its values in it, and its fields.

    As Django makes those of indexes and constraints, which no public function gives.
    """
    connection.ensure_connection()
    query = Query(model, alias_cols=False)
    where = query.build_where(condition)
    sql, parameters = where.as_sql(query.get_compiler(connection=connection), connection)
    editor = connection.schema_editor()
    fields: list[Field[Any, Any]] = []
    nodes: list[Any] = [where]
    while nodes:
        node = nodes.pop()
        if target := getattr(node, "target", None):
            fields.append(target)
        if hasattr(node, "get_source_expressions"):
            nodes += filter(None, node.get_source_expressions())
    return sql % tuple(map(editor.quote_value, parameters)), fields
