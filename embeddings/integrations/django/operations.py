"""Operations of Django's migrations: a revision of this library's Alembic, triggers, an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connections, router
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

from ...following.literals import Follow
from ...searching.words import checked_language
from ...tables.indexing import EmbeddingIndex, TextIndex
from .schema import (
    change_index,
    change_text_index,
    downgrade,
    follow,
    follow_script,
    index_script,
    script,
    text_index_script,
    unfollow,
    upgrade,
)
from .tables import records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState


class _DatabaseChange(Operation):
    """What changes the database, and no Django model, where the router admits it; reversible."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Do nothing: no Django model changes."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, *states: Any, **_: Any
    ) -> None:
        """Make what the operation says, or collect the SQL for it."""
        self._run(app_label, schema_editor, drops=False)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, *states: Any, **_: Any
    ) -> None:
        """Drop it, or collect the SQL for it."""
        self._run(app_label, schema_editor, drops=True)

    def _run(self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, *, drops: bool) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            self._change(schema_editor, drops=drops)

    def _change(self, schema_editor: BaseDatabaseSchemaEditor, *, drops: bool) -> None:
        raise NotImplementedError


class AlembicRevision(_DatabaseChange):
    """Brings the tables to a revision, and back to the one before, in Django's transaction.

    Args:
        revision: An Alembic revision of this library.
        down: The one before it, or "base". Going back refuses to drop rows.
    """

    def __init__(self, revision: str, down: str) -> None:
        self.revision, self.down = revision, down

    def _change(self, schema_editor: BaseDatabaseSchemaEditor, *, drops: bool) -> None:
        alias = schema_editor.connection.alias
        if schema_editor.collect_sql:
            start, end = (self.revision, self.down) if drops else (self.down, self.revision)
            schema_editor.collected_sql.append(script(alias, start, end).strip())
        elif drops:
            downgrade(alias, self.down)
        else:
            upgrade(alias, self.revision)

    def describe(self) -> str:
        """Return what Django shows of the operation."""
        return f"Alembic revision {self.revision} of sqlalchemy-embeddings"


class FollowRows(_DatabaseChange):
    """Makes the triggers by which a collection follows the rows of one table; reversible.

        dependencies = [("embeddings", "0003_pending")]
        operations = [
            FollowRows(
                "articles_article",
                key="id",
                columns=["title", "body", "published"],
                where="published",
                collection="articles.article",
            )
        ]

    All of it is literal: what a migration did does not change with the declaration.

    Args:
        table: The name of the table.
        key: The column of its primary key.
        columns: All that text, metadata and condition read.
        collection: The name of the collection.
        where: SQL over `columns`: the rows that are in the collection.
        schema: Of the table.
        embeddings: The table of embeddings; by default that of the project.
        unique: Columns that are unique together, each as a list. SQLite is asked for them, but in a
            script.
    """

    def __init__(
        self,
        table: str,
        *,
        key: str,
        columns: Sequence[str],
        collection: str,
        where: str | None = None,
        schema: str | None = None,
        embeddings: str | None = None,
        unique: Sequence[Sequence[str]] = (),
    ) -> None:
        self.table, self.collection = table, collection
        self._given = (table, key, tuple(columns), collection, where, schema)
        self._embeddings, self._unique = embeddings, tuple(map(tuple, unique))

    @property
    def follow(self) -> Follow:
        """What the triggers are made from."""
        embeddings = self._embeddings or records().embeddings.fullname
        return Follow(*self._given, embeddings, self._unique)

    def _change(self, schema_editor: BaseDatabaseSchemaEditor, *, drops: bool) -> None:
        alias, given = schema_editor.connection.alias, self.follow
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append(follow_script(alias, given, drops=drops))
        elif drops:
            unfollow(alias, given)
        else:
            follow(alias, given)

    def describe(self) -> str:
        """Return what Django shows of the operation."""
        return f"Follow the rows of {self.table} for the collection {self.collection}"


class UnfollowRows(FollowRows):
    """Drops the triggers that `FollowRows` made with the same arguments; reversible.

    It stands before what changes the columns that the triggers read, which the databases refuse or
    after which writes fail, and a new `FollowRows` behind that:

        operations = [
            UnfollowRows("articles_article", key="id", columns=["body"], collection="articles"),
            migrations.RenameField("article", "body", "text"),
            FollowRows("articles_article", key="id", columns=["text"], collection="articles"),
        ]

    Vectors and pending rows stay.
    """

    def _change(self, schema_editor: BaseDatabaseSchemaEditor, *, drops: bool) -> None:
        super()._change(schema_editor, drops=not drops)

    def describe(self) -> str:
        """Return what Django shows of the operation."""
        return f"Follow the rows of {self.table} no more for the collection {self.collection}"


def followed(alias: str, collections: Iterable[str]) -> list[Follow]:
    """Return what applied migrations have made triggers from, of some collections."""
    loader, names = MigrationLoader(connections[alias]), {*collections}
    graph = loader.graph
    in_order = dict.fromkeys(
        key for leaf in graph.leaf_nodes() for key in graph.forwards_plan(leaf)
    )
    found: dict[tuple[str, str], Follow] = {}
    for key in in_order:
        if key not in loader.applied_migrations or not router.allow_migrate(alias, key[0]):
            continue
        for operation in graph.nodes[key].operations:
            if not isinstance(operation, FollowRows) or operation.collection not in names:
                continue
            place = operation.collection, operation.table
            if isinstance(operation, UnfollowRows):
                found.pop(place, None)
            else:
                found[place] = operation.follow
    return [*found.values()]


class CreateEmbeddingIndex(_DatabaseChange):
    """Makes the index of a collection on PostgreSQL, and nothing on SQLite; reversible.

        dependencies = [("embeddings", "0001_documented_schema")]
        operations = [CreateEmbeddingIndex("articles.article", dimensions=256, model="local")]

    What is there already stays as it is. While rows are indexed, others cannot write: where there
    are many, call `create_index` of the collection instead.

    Args:
        collection: The name of the collection.
        dimensions: Of vectors that are yet to come. Where there are vectors, the index is for
            theirs, and a warning in the log names both numbers.
        model: The id of its model, by which the collection is created if it is not there; going
            back takes it along if it is empty.
        m: As `Collection.create_index` takes it.
        ef_construction: Likewise.
        embeddings: The table of embeddings; by default that of the project.
    """

    def __init__(
        self,
        collection: str,
        *,
        dimensions: int,
        model: str | None = None,
        m: int | None = None,
        ef_construction: int | None = None,
        embeddings: str | None = None,
    ) -> None:
        self.collection, self._dimensions = collection, dimensions
        self._options: dict[str, Any] = {"model": model, "m": m, "ef_construction": ef_construction}
        self._embeddings = embeddings

    def _change(self, schema_editor: BaseDatabaseSchemaEditor, *, drops: bool) -> None:
        alias = schema_editor.connection.alias
        embeddings = self._embeddings or records().embeddings.fullname
        given = EmbeddingIndex(
            self.collection, self._dimensions, embeddings=embeddings, **self._options
        )
        if not schema_editor.collect_sql:
            change_index(alias, given, drops=drops)
        elif sql := index_script(alias, given, drops=drops):
            schema_editor.collected_sql.append(sql)

    def describe(self) -> str:
        """Return what Django shows of the operation."""
        return f"Create the index of the collection {self.collection}"


class CreateTextIndex(_DatabaseChange):
    """Makes the text index of a collection, and fills it; reversible.

        dependencies = [("embeddings", "0004_words")]
        operations = [CreateTextIndex("articles.article", "english", model="local")]

    If there is one in this language, what it lacks is put in. `sqlmigrate` prints it for PostgreSQL
    without the words, and for SQLite a remark.

    Args:
        collection: The name of the collection.
        language: As `Collection.create_text_index` takes it.
        model: The id of its model, by which the collection is created if it is not there; going
            back takes it along if it is empty and has no index of vectors.
        embeddings: The table of embeddings; by default that of the project.
    """

    def __init__(
        self,
        collection: str,
        language: str = "english",
        *,
        model: str | None = None,
        embeddings: str | None = None,
    ) -> None:
        self.collection, self._language = collection, checked_language(language)
        self._model, self._embeddings = model, embeddings

    def _change(self, schema_editor: BaseDatabaseSchemaEditor, *, drops: bool) -> None:
        alias = schema_editor.connection.alias
        embeddings = self._embeddings or records().embeddings.fullname
        given = TextIndex(self.collection, self._language, model=self._model, embeddings=embeddings)
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append(text_index_script(alias, given, drops=drops))
        else:
            change_text_index(alias, given, drops=drops)

    def describe(self) -> str:
        """Return what Django shows of the operation."""
        return f"Create the text index of the collection {self.collection}"
