"""A revision of this library's Alembic as an operation of Django's migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import router
from django.db.migrations.operations.base import Operation

from .schema import downgrade, script, upgrade

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState


class AlembicRevision(Operation):
    """Brings the tables to a revision, and back to the one before, in Django's transaction.

    Args:
        revision: An Alembic revision of this library.
        down: The one before it, or "base". Going back refuses to drop rows.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, revision: str, down: str) -> None:
        self.revision, self.down = revision, down

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Do nothing: there are no Django models."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, *states: Any, **_: Any
    ) -> None:
        """Upgrade, or collect the SQL for it."""
        self._run(app_label, schema_editor, self.down, self.revision)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, *states: Any, **_: Any
    ) -> None:
        """Downgrade, or collect the SQL for it."""
        self._run(app_label, schema_editor, self.revision, self.down)

    def _run(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, start: str, end: str
    ) -> None:
        alias = schema_editor.connection.alias
        if not router.allow_migrate(alias, app_label):
            return
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append(script(alias, start, end).strip())
            return
        if end == self.revision:
            upgrade(alias, end)
        else:
            downgrade(alias, end)

    def describe(self) -> str:
        """Return what Django shows of the operation."""
        return f"Alembic revision {self.revision} of sqlalchemy-embeddings"
