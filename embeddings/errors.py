"""The exceptions and warnings of this library.

EmbeddingsError
├── DoesNotExist (LookupError)          a collection, or an id in it, is not there
├── UnknownModelError (KeyError)        no embedding model has this id or alias
├── ModelRequiredError (ValueError)     a new collection was given no model
├── ModelMismatchError (ValueError)     a collection belongs to another model
├── InvalidItemError (ValueError)       an id, content or metadata that cannot be stored
├── InvalidVectorError (ValueError)     a vector with wrong length, shape or values
├── InvalidQueryError (ValueError)      an argument of a search that means nothing
├── ModelError (RuntimeError)           an embedding model failed, or its service did
├── MissingExtraError (ImportError)     an optional package is not installed
├── SchemaError (RuntimeError)          the tables are missing, or are not ours
├── IndexingError (RuntimeError)        an index that cannot be made here
└── BindingError (RuntimeError)         a database that cannot be used in this way

CorruptVectorWarning (UserWarning)      stored vectors that a search had to leave out
MemoryBudgetWarning (UserWarning)       a collection that is too large to be searched from memory

Errors of SQLAlchemy and of the database driver pass through unchanged.
"""

from __future__ import annotations


class EmbeddingsError(Exception):
    """Everything that this library raises of its own accord."""


class DoesNotExist(EmbeddingsError, LookupError):  # noqa: N818  the documented name
    """A collection, or an id within one, does not exist. Also `Collection.DoesNotExist`."""


class UnknownModelError(EmbeddingsError, KeyError):
    """No embedding model is registered under this id or alias.

    Attributes:
        name: What was asked for.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"Unknown model: {name}")
        self.name = name

    def __str__(self) -> str:  # KeyError would show the repr of its message
        return f"Unknown model: {self.name}"


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
    """

    def __init__(self, collection: str, stored: str | None, given: str) -> None:
        super().__init__(collection, stored, given)
        self.collection, self.stored, self.given = collection, stored, given

    def __str__(self) -> str:
        return (
            f"Collection {self.collection!r} holds vectors of model {self.stored!r}, not of "
            f"{self.given!r}. Open it with that model or with none, or use another collection "
            "for the other model"
        )


class InvalidItemError(EmbeddingsError, ValueError):
    """An id, a content or a metadata that cannot be stored. Raised before any model is called."""


class InvalidVectorError(EmbeddingsError, ValueError):
    """A vector that is empty, not one-dimensional, not finite, or of the wrong length."""


class InvalidQueryError(EmbeddingsError, ValueError):
    """An argument of a search or of a deletion that cannot be what was meant."""


class ModelError(EmbeddingsError, RuntimeError):
    """An embedding model or its service failed. The message never holds a key or a content."""


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


class BindingError(EmbeddingsError, RuntimeError):
    """A database object that cannot be used in this way; the message says what to pass instead."""


class MemoryBudgetWarning(UserWarning):
    """Each search of a collection reads every row, because they do not fit into the memory allowed.

    `set_memory_budget` allows more. It is given once for a collection, in each process.
    """


class CorruptVectorWarning(UserWarning):
    """Stored vectors that cannot be compared were left out of a search; the message names them."""
