"""Flask: models and keys from `app.config`, and the command `flask embeddings`.

    embeddings = Embeddings()
    embeddings.init_app(app)

Collections need nothing of this: they are opened on Flask-SQLAlchemy's `db.session`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask, current_app, has_app_context
from flask.cli import with_appcontext

from ..cli import commands_on
from ..errors import BindingError
from ..models.registry import Settings, settings_from, use_settings
from ..tables.ours import use_words
from ..tables.records import Base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine

    from ..following.source import ModelCollection

EXTENSION = "embeddings"


class Embeddings:
    """The extension. Each application has the settings of its own `app.config`.

    - `EMBEDDINGS_MODEL`: the model of new collections that name none; an id, an alias, or a model
      object of your own, which is then known in this application by its `model_id`.
    - `EMBEDDINGS_MODELS`: models of services that speak OpenAI's protocol: a dict of ids, each with
      the keyword arguments of `OpenAIEmbeddingModel`.
    - The settings of the built-in models, such as their keys, by the names of the environment
      variables.

    They are read by `init_app`, and hold in the application's context. What is not there is looked
    for in the environment. Shared by all applications of a process are the models, aliases and the
    default that are registered through `embeddings` itself, and the memory for searches.

    Args:
        app: The application, if there is one already.
        bind_key: Of the database that has the tables, if that is not the default one. Like the
            bind key of a model, it is the same for all applications of the process.
        collections: Those that follow the rows of a model, for `flask embeddings check`, `sync`
            and `refresh`.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        bind_key: str | None = None,
        collections: Sequence[ModelCollection[Any]] = (),
    ) -> None:
        self._collections = tuple(collections)
        if bind_key is not None:
            Base.metadata.info["bind_key"] = bind_key
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the settings of an application, and add the command to it."""
        app.extensions[EXTENSION] = settings_from(
            app.config, app.config.get("EMBEDDINGS_MODEL"), app.config.get("EMBEDDINGS_MODELS")
        )
        use_settings("flask", _current_settings)
        use_words("flask", _migrate)
        app.cli.add_command(commands_on(with_appcontext(_engine), lambda: self._collections))


def _current_settings() -> Settings | None:
    return current_app.extensions.get(EXTENSION) if has_app_context() else None


def _migrate() -> str | None:
    """Return what one types where the tables are missing."""
    if _current_settings() is None:
        return None
    if "migrate" not in current_app.extensions:  # Flask-Migrate
        return "flask embeddings migrate"
    return (
        "flask db upgrade, where a revision calls embeddings.migrate(op.get_bind()); without one, "
        "with flask embeddings migrate"
    )


def _engine() -> Engine:
    """Return the engine of the database that has the tables, or is to have them."""
    bind_key = Base.metadata.info.get("bind_key")
    sqlalchemy = current_app.extensions.get("sqlalchemy")
    if sqlalchemy is None:
        raise BindingError(
            "This application has no Flask-SQLAlchemy. Use the program `embeddings --database URL`"
        )
    if bind_key not in sqlalchemy.engines:
        raise BindingError(f"SQLALCHEMY_BINDS has no bind {bind_key!r}")
    engine: Engine = sqlalchemy.engines[bind_key]
    return engine
