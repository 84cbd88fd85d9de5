"""A revision of this library's Alembic as an operation of Django's migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.migrations import RunPython

from ...tables.migrate import downgrade, migrate
from .database import session

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import StateApps


class AlembicRevision(RunPython):
    """Brings the tables to a revision, and back to the one before, in Django's transaction.

    Args:
        revision: An Alembic revision of this library.
        down: The one before it, or "base". Going back refuses to drop rows.
    """

    def __init__(self, revision: str, down: str) -> None:
        self.revision, self.down = revision, down
        super().__init__(self._upgrade, self._downgrade)

    def describe(self) -> str:
        """Return what Django shows of the operation."""
        return f"Alembic revision {self.revision} of sqlalchemy-embeddings"

    def _upgrade(self, _: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        with session(schema_editor.connection.alias) as lent:
            migrate(lent.connection(), self.revision)

    def _downgrade(self, _: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        with session(schema_editor.connection.alias) as lent:
            downgrade(lent.connection(), self.down)
