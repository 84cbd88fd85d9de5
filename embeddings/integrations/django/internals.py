"""What Django keeps to itself and this integration needs, in one place, each with its reason.

Checked with Django 5.2 and 6.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models.query import ModelIterable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import QuerySet


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
