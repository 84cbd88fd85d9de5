"""Semantic search in the SQLAlchemy session you already have.

    docs = Collection("docs", session, model_id="local")
    docs.embed("hound", "my happy hound", store=True)
    docs.similar("dog")

In reading order: the collection and what it returns, the mapped records and their schema, the
models and the registry, vectors, errors.
"""

from __future__ import annotations

import importlib
import typing
from importlib.util import find_spec as _find_spec

from .collection import Collection
from .databases.sqlite.matrix.memory import set_memory_budget
from .databases.sqlite.transactions import configure_sqlite
from .databases.status import IndexInfo, Status
from .errors import (
    AnswerError,
    AuthenticationError,
    BindingError,
    ChunksMismatchError,
    CorruptMetadataWarning,
    CorruptVectorWarning,
    DoesNotExist,
    EmbeddingsError,
    IndexingError,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
    MemoryBudgetWarning,
    MissingExtraError,
    MissingWordsWarning,
    ModelError,
    ModelMismatchError,
    ModelRequiredError,
    QuotaError,
    RateLimitError,
    RefusedError,
    SchemaError,
    SettingsError,
    TooLongError,
    UnavailableError,
    UnknownModelError,
)
from .following.source import ModelCollection
from .forks import importing as _importing
from .models.base import EmbeddingModel, SupportsEmbedding
from .models.cached import cached
from .models.registry import (
    get_aliases,
    get_embedding_model,
    get_embedding_models,
    register_embedding_model,
    remove_alias,
    set_alias,
    set_default_model,
)
from .searching.entries import Chunk, Entries, Entry
from .searching.query import Filters
from .tables.columns import BinaryText, JSONObject, Vector
from .tables.custom import install, make_records, uninstall
from .tables.migrate import downgrade, migrate
from .tables.records import Base, CollectionRecord, EmbeddingRecord, Records
from .vectors import cosine_similarity, decode, encode
from .writing.chunks import Chunks
from .writing.items import Prepared
from .writing.plan import Plan
from .writing.report import Report

if typing.TYPE_CHECKING:
    from .aio.collection import AsyncCollection, AsyncPlan
    from .tables.alembic import include_object, render_item

__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "AsyncCollection",
    "AsyncPlan",
    "AuthenticationError",
    "Base",
    "BinaryText",
    "BindingError",
    "Chunk",
    "Chunks",
    "ChunksMismatchError",
    "Collection",
    "CollectionRecord",
    "CorruptMetadataWarning",
    "CorruptVectorWarning",
    "DoesNotExist",
    "EmbeddingModel",
    "EmbeddingRecord",
    "EmbeddingsError",
    "Entries",
    "Entry",
    "Filters",
    "IndexInfo",
    "IndexingError",
    "InvalidItemError",
    "InvalidQueryError",
    "InvalidVectorError",
    "JSONObject",
    "MemoryBudgetWarning",
    "MissingExtraError",
    "MissingWordsWarning",
    "ModelCollection",
    "ModelError",
    "ModelMismatchError",
    "ModelRequiredError",
    "Plan",
    "Prepared",
    "QuotaError",
    "RateLimitError",
    "Records",
    "RefusedError",
    "Report",
    "SchemaError",
    "SettingsError",
    "Status",
    "SupportsEmbedding",
    "TooLongError",
    "UnavailableError",
    "UnknownModelError",
    "Vector",
    "cached",
    "configure_sqlite",
    "cosine_similarity",
    "decode",
    "downgrade",
    "encode",
    "get_aliases",
    "get_embedding_model",
    "get_embedding_models",
    "include_object",
    "install",
    "make_records",
    "migrate",
    "register_embedding_model",
    "remove_alias",
    "render_item",
    "set_alias",
    "set_default_model",
    "set_memory_budget",
    "uninstall",
]


# Imported when asked for: they load parts of SQLAlchemy that few applications need.
_LATER = {
    "AsyncCollection": "aio",
    "AsyncPlan": "aio",
    "include_object": "following.autogenerate",
    "render_item": "following.autogenerate",
}
if not typing.TYPE_CHECKING and not _find_spec("greenlet"):
    # A star import would fail of what needs the extra `async`.
    __all__ = [name for name in __all__ if _LATER.get(name) != "aio"]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _importing():
        module = importlib.import_module(f".{_LATER[name]}", __name__)
    return getattr(module, name)
