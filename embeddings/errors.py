"""The exceptions and warnings of this library.

EmbeddingsError
├── DoesNotExist (LookupError)          a collection, or an id in it, is not there
├── UnknownModelError (KeyError)        no embedding model has this id or alias
├── ModelRequiredError (ValueError)     a new collection was given no model
├── SettingsError (ValueError)          the environment names models in a way that means nothing
├── ModelMismatchError (ValueError)     a collection belongs to another model
├── ChunksMismatchError (ValueError)    a collection's texts are cut in another way
├── InvalidItemError (ValueError)       an id, content or metadata that cannot be stored
├── InvalidVectorError (ValueError)     a vector with wrong length, shape or values
├── InvalidQueryError (ValueError)      an argument of a search that means nothing
├── ModelError (RuntimeError)           an embedding model failed, or its service did
│   ├── AuthenticationError             the service does not take the key
│   ├── QuotaError                      the account has nothing left to spend
│   ├── RateLimitError                  too many requests or tokens for the moment
│   ├── RefusedError                    the service does not take the request, or an item
│   │   └── TooLongError                an item or a request is longer than the model takes
│   ├── UnavailableError                no answer: a broken connection, a time-out, a server error
│   └── AnswerError                     an answer that does not hold the vectors asked for
├── MissingExtraError (ImportError)     an optional package is not installed
├── SchemaError (RuntimeError)          the tables are missing, or are not ours
├── IndexingError (RuntimeError)        an index that cannot be made here
└── BindingError (RuntimeError)         a database that cannot be used in this way

CorruptMetadataWarning (UserWarning)    stored metadata that is not JSON was taken for none
CorruptVectorWarning (UserWarning)      stored vectors that a search had to leave out
MissingWordsWarning (UserWarning)       items that no search by words can find yet
MemoryBudgetWarning (UserWarning)       a collection that is too large to be searched from memory

Errors of SQLAlchemy and of the database driver pass through unchanged.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SHOWN_IDS = 5  # of the items concerned, in a message


class EmbeddingsError(Exception):
    """Everything that this library raises of its own accord.

    Attributes:
        ids: Of the items concerned, where they have ids.
        positions: Of the items concerned, among those that the model was called with. Empty where
            it is all of them.
    """

    ids: tuple[Any, ...] = ()
    positions: tuple[int, ...] = ()

    def add_ids(self, ids: Iterable[Any]) -> None:
        """Say which items are concerned, also in the message. The first ids said stay."""
        if self.ids:
            return
        self.ids = tuple(ids)
        if self.ids and self.args:
            self.args = (f"{self.args[0]} [{shown_ids(self.ids)}]", *self.args[1:])

    def advise(self, what: str) -> None:
        """Say in the message what to do."""
        if self.args:
            self.args = (f"{self.args[0]}. {what}", *self.args[1:])


def shown_ids(ids: Sequence[Any]) -> str:
    """Return what to say of the items that an error is about, by the first of their ids."""
    shown = ", ".join(repr(id)[:80] for id in ids[:SHOWN_IDS])
    more = len(ids) - SHOWN_IDS
    word = "id" if len(ids) == 1 else "ids"
    return f"{word} {shown} and {more} more" if more > 0 else f"{word} {shown}"


class DoesNotExist(EmbeddingsError, LookupError):  # noqa: N818  the documented name
    """A collection, or an id within one, does not exist. Also `Collection.DoesNotExist`."""


class UnknownModelError(EmbeddingsError, KeyError):
    """No embedding model is registered under this id or alias.

    Attributes:
        name: What was asked for.
        near: The id or alias of a model that is written much like it; None if there is none.
    """

    def __init__(self, name: str, near: str | None = None) -> None:
        super().__init__(f"Unknown model: {name}")
        self.name = name
        self.near = near

    def __str__(self) -> str:  # KeyError would show the repr of its message
        hint = f". Did you mean {self.near!r}?" if self.near else ""
        return f"Unknown model: {self.name}{hint}"


class ModelRequiredError(EmbeddingsError, ValueError):
    """A collection that does not exist yet was given neither a model nor a model id."""

    def __init__(
        self,
        message: str = "Either model= or model_id= must be provided when creating a new collection",
    ) -> None:
        super().__init__(message)


class ModelMismatchError(EmbeddingsError, ValueError):
    """A collection holds the vectors of one model and was opened with another.

    Attributes:
        collection: The collection's name.
        stored: The id of the model that made its vectors.
        given: The id of the model it was opened with.
        remedy: What to do.
    """

    def __init__(
        self, collection: str, stored: str | None, given: str, remedy: str | None = None
    ) -> None:
        super().__init__(collection, stored, given, remedy)
        self.collection, self.stored, self.given = collection, stored, given
        self.remedy = remedy or (
            "Open it with that model or with none, use another collection for the other model, or "
            f"embed this one anew: reembed({given!r})"
        )

    def __str__(self) -> str:
        return (
            f"Collection {self.collection!r} holds vectors of model {self.stored!r}, not of "
            f"{self.given!r}. {self.remedy}"
        )


class ChunksMismatchError(EmbeddingsError, ValueError):
    """A collection was opened with other chunks than its texts are cut into."""


class InvalidItemError(EmbeddingsError, ValueError):
    """An id, a content or a metadata that cannot be stored. Raised before any model is called."""


class InvalidVectorError(EmbeddingsError, ValueError):
    """A vector that is empty, not one-dimensional, not finite, or of the wrong length.

    Attributes:
        made: Vectors that are none of this, of the same call of a model, by their position.
    """

    made: Mapping[int, Any] = MappingProxyType({})


class InvalidQueryError(EmbeddingsError, ValueError):
    """An argument of a search or of a deletion that cannot be what was meant."""


class ModelError(EmbeddingsError, RuntimeError):
    """An embedding model or its service failed. The message never holds a key or a content.

    Attributes:
        status: The HTTP status that the service answered with, or None.
        reason: What the service said of it, shortened, without keys and contents, or None.
        retry_after: The seconds after which the service wants to be asked again, or None.
        is_retryable: Whether the same call may succeed later, with nothing changed.
    """

    is_retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        reason: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.retry_after = status, reason, retry_after


class AuthenticationError(ModelError):
    """The service does not take the key, or the key may not use the model."""


class QuotaError(ModelError):
    """The account has nothing left to spend, which waiting does not change."""


class RateLimitError(ModelError):
    """Too many requests or tokens for the moment; `retry_after` may say how long to wait."""

    is_retryable = True


class RefusedError(ModelError):
    """The service does not take the request.

    If it is for one item, `positions` and `ids` tell which; if for all requests, they are empty.

    Attributes:
        made: Vectors of other items of the call that came before, by their position.
    """

    made: Mapping[int, Any] = MappingProxyType({})


class TooLongError(RefusedError):
    """An item, or a request, is longer than the model takes."""


class UnavailableError(ModelError):
    """The service gave no answer: a broken connection, a time-out, or an error on its side."""

    is_retryable = True


class AnswerError(ModelError):
    """The service's answer does not hold the vectors that it was asked for."""

    is_retryable = True


class MissingExtraError(EmbeddingsError, ImportError):
    """A package that belongs to an optional extra is not installed.

    Attributes:
        package: What is missing.
        extra: The extra to install.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.package, self.extra = package, extra

    def __str__(self) -> str:
        return (
            f"This needs the package {self.package!r}. "
            f"Install it with: pip install 'sqlalchemy-embeddings[{self.extra}]'"
        )


class SchemaError(EmbeddingsError, RuntimeError):
    """The tables are missing, or tables of the same name belong to somebody else."""


class IndexingError(EmbeddingsError, RuntimeError):
    """An index that this database cannot have, or not yet; the message says why."""


class SettingsError(EmbeddingsError, ValueError):
    """EMBEDDINGS_MODELS of the environment says what no model can be made of. Shows no value."""


class BindingError(EmbeddingsError, RuntimeError):
    """A database object that cannot be used in this way; the message says what to pass instead."""


class MemoryBudgetWarning(UserWarning):
    """Each search of a collection reads every row, because they do not fit into the memory allowed.

    `set_memory_budget` allows more. It is given once for a collection, in each process.
    """


class CorruptMetadataWarning(UserWarning):
    """Stored metadata is not JSON, and was taken for none; the message names the items."""


class MissingWordsWarning(UserWarning):
    """A text index was made, and items have no words in it, because their text is not stored."""


class CorruptVectorWarning(UserWarning):
    """Stored vectors that cannot be compared were left out of a search; the message names them."""
