"""What turns text or bytes into vectors: the models, how one is called, and who provides them."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from ..errors import InvalidItemError, ModelError
from ..vectors import Float32, VectorLike, as_vectors
from .limits import estimated_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Content: TypeAlias = str | bytes
Kind: TypeAlias = Literal["text", "binary"]
Role: TypeAlias = Literal["document", "query"]
"""What an item is embedded for: to be stored, or to be searched for."""
BATCH_SIZE = 100  # items in one call of a model, unless the model or the caller says otherwise
T = TypeVar("T")


@runtime_checkable
class SupportsEmbedding(Protocol):
    """What a collection needs of a model: this library's, `llm`'s, or an object of your own.

    `batch_size`, `concurrency`, `supports_text`, `supports_binary`, `query_prefix`,
    `document_prefix` and `query_cache` are read where they exist, and `check_item` and
    `embed_queries` called, as those of `EmbeddingModel`.
    """

    model_id: str

    def embed_batch(self, items: list[Any], /) -> Iterable[VectorLike]:
        """Return one vector for each item, in order."""
        ...


class EmbeddingModel(ABC):
    """An embedding model. A subclass sets `model_id` and implements `embed_batch`.

    >>> class Length(EmbeddingModel):
    ...     model_id = "length"
    ...
    ...     def embed_batch(self, items):
    ...         return [[len(item), 1] for item in items]
    >>> Length().embed("hound")
    [5.0, 1.0]
    """

    model_id: str
    """The name under which collections remember the model."""
    batch_size: int | None = None
    """The most items to pass to `embed_batch` at once; None for any number."""
    concurrency: int = 1
    """The most calls of `embed_batch` at a time, each in a thread of its own if above 1."""
    supports_text: bool = True
    supports_binary: bool = False
    query_prefix: str = ""
    """What a text to search for is preceded by."""
    document_prefix: str = ""
    """What a text to store is preceded by; the hash by which it is recognised is of both."""
    query_cache: int = 1000
    """The most vectors of queries that are kept in memory; 0 for none."""

    @abstractmethod
    def embed_batch(self, items: Sequence[Content]) -> Iterable[VectorLike]:
        """Return one vector for each item, in order.

        Args:
            items: A list of strings, or of bytes, never an exhausted or one-shot iterator.
        """

    def check_item(self, item: Content) -> None:  # noqa: B027  most models take everything
        """Do nothing if the model may take an item; called before `embed_batch`, for each.

        Raises:
            InvalidItemError: It does not take it.
        """

    def forget(self, items: Sequence[Content], role: Role) -> None:  # noqa: B027  most keep none
        """Keep no vectors of these items; called where those that came do not fit the collection.

        Args:
            items: As `embed_batch` or `embed_queries` has them, without the prefix of their role.
            role: What they were embedded for.
        """

    def estimate_tokens(self, item: Content) -> int:
        """Return about how many tokens an item has, its prefix included; 0 for bytes.

        Here it is one for every 4 bytes of UTF-8, which is usual for English.
        """
        return estimated_tokens(item) if isinstance(item, str) else 0

    def embed(self, item: Content) -> list[float]:
        """Return the item's vector as a list of floats, each rounded to float32.

        It is the vector that a collection stores: `document_prefix` is added.

        Raises:
            InvalidItemError: The model does not take this kind of content.
            ModelError: The model returned something else than one vector.
        """
        check_kind(self, item)
        return _floats(embed_checked(self, [item])[0])

    def embed_multi(
        self, items: Iterable[Content], batch_size: int | None = None
    ) -> Iterator[list[float]]:
        """Yield one vector for each item, reading the items lazily, a batch at a time.

        Args:
            items: Strings or bytes; may be a generator of any length.
            batch_size: Instead of the model's own. Without either, all items are one batch.

        Raises:
            InvalidItemError: While iterating: the model does not take this kind of content.
            ModelError: While iterating: the model returned too few or too many vectors.
        """
        for batch in batches(items, self.batch_size if batch_size is None else batch_size):
            for item in batch:
                check_kind(self, item)
            yield from map(_floats, embed_checked(self, batch))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id!r}>"


@dataclass(frozen=True)
class Setting:
    """One setting of a provider, such as its key.

    Attributes:
        name: What it is called in an application's configuration.
        option: The keyword argument of the provider's `register` that takes its value, a string.
    """

    name: str
    option: str


class Provider(Protocol):
    """What a file with models of one provider declares: its settings, and how to register them."""

    SETTINGS: tuple[Setting, ...]
    register: Callable[..., None]
    """`register(add, **options)` calls `add(model, aliases)` for each of the provider's models."""


def _floats(vector: Float32) -> list[float]:
    values: list[float] = vector.tolist()
    return values


def batches(items: Iterable[T], size: int | None) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`, or in one list, reading no further than needed.

    Raises:
        ValueError: `size` is not a positive integer or None.
    """
    if size is not None:
        check_batch_size(size)
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def check_batch_size(size: int) -> int:
    """Return `size` if it is a positive integer.

    Raises:
        ValueError: It is not.
    """
    return check_positive("batch_size", size)


def at_most_own(model: Any, batch_size: int) -> int:
    """Return a batch size, or the model's own if that is smaller."""
    own = getattr(model, "batch_size", None)
    return min(batch_size, own or batch_size)


def check_positive(name: str, number: int) -> int:
    """Return an argument if it is a positive integer.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{name} must be a positive integer, not {number!r}")
    return number


def check_model(model: object) -> None:
    """Do nothing if it is a model that a collection can use.

    Raises:
        TypeError: It is not, or has no string as its `model_id`.
    """
    # What isinstance() asks, which takes the protocol apart each time.
    is_one = hasattr(model, "model_id") and hasattr(model, "embed_batch")
    if isinstance(model, type) or not is_one:
        if isinstance(model, type):
            given = f"the class {model.__name__}: make one of it"
        elif isinstance(model, str):
            given = "str; for a name use model_id="
        else:
            names = (name for name in ("model_id", "embed_batch") if not hasattr(model, name))
            given = (
                f"{type(model).__name__}, which has no {' and no '.join(names)}: derive a class "
                "from EmbeddingModel that calls it; for a name use model_id="
            )
        raise TypeError(f"model= takes a model object, with model_id and embed_batch, not {given}")
    model_id = getattr(model, "model_id", None)
    if not isinstance(model_id, str) or not model_id:
        raise TypeError(f"model= takes a model object whose model_id is a name: {model_id!r}")


def check_name(name: object) -> None:
    """Do nothing if it can be the id or an alias of a model.

    Raises:
        TypeError: It cannot.
    """
    if not isinstance(name, str):
        hint = "; a model object is passed as model=" if hasattr(name, "embed_batch") else ""
        raise TypeError(f"The id or alias of a model is a str, not {type(name).__name__}{hint}")


def check_given(model: object, model_id: object) -> None:
    """Do nothing if a collection can be given these, of which each may be None.

    Raises:
        TypeError: It cannot.
    """
    if model is not None:
        check_model(model)
    if model_id is not None:
        check_name(model_id)


def kinds(model: SupportsEmbedding) -> tuple[Kind, ...]:
    """Return the kinds of content that the model takes."""
    if not getattr(model, "supports_binary", False):
        return ("text",) if getattr(model, "supports_text", True) else ()
    return ("text", "binary") if getattr(model, "supports_text", True) else ("binary",)


def check_kind(model: SupportsEmbedding, item: object) -> None:
    """Do nothing if the model takes items of this kind.

    Raises:
        InvalidItemError: It does not, or the item is neither a string nor bytes.
    """
    if not isinstance(item, str | bytes):
        raise InvalidItemError(f"Content must be str or bytes, not {type(item).__name__}")
    if isinstance(item, bytes) and "binary" not in kinds(model):
        raise InvalidItemError("This model does not support binary data, only text strings")
    if isinstance(item, str) and "text" not in kinds(model):
        raise InvalidItemError("This model does not support text strings, only binary data")


def check_content(model: SupportsEmbedding, item: object) -> None:
    """Do nothing if the model may take this item.

    Raises:
        InvalidItemError: It does not, or the item is neither a string nor bytes.

        And what the model's `check_item` raises.
    """
    check_kind(model, item)
    check_item = getattr(model, "check_item", None)
    if check_item is not None:
        check_item(item)


def prefixed(model: SupportsEmbedding, item: Content, role: Role = "document") -> Content:
    """Return what the model is given for an item: a text with the prefix of its role."""
    return all_prefixed(model, [item], role)[0]


def all_prefixed(
    model: SupportsEmbedding, items: list[Content], role: Role = "document"
) -> list[Content]:
    """Return what the model is given for items: see `prefixed`."""
    prefix = getattr(model, f"{role}_prefix", "")
    if not prefix:
        return items
    return [prefix + item if isinstance(item, str) else item for item in items]


def tokens_of(model: SupportsEmbedding, item: Content) -> int:
    """Return about how many tokens the model is paid for an item, its prefix included."""
    estimate: Callable[[Content], int] | None = getattr(model, "estimate_tokens", None)
    if estimate is not None:
        return estimate(item)
    return estimated_tokens(item) if isinstance(item, str) else 0


def has_own(model: SupportsEmbedding, name: str, general: str) -> bool:
    """Return whether a model's method goes before a more general one.

    It does not where a subclass overrides the general one alone: then the subclass is asked.
    """
    for kind in type(model).__mro__:
        if name in vars(kind):
            return True
        if general in vars(kind):
            return False
    return hasattr(model, name)


def _call(model: SupportsEmbedding, items: list[Any], role: Role) -> Iterable[VectorLike]:
    if _has_queries(model, role):
        vectors: Iterable[VectorLike] = model.embed_queries(items)  # type: ignore[attr-defined]
        return vectors
    items = all_prefixed(model, items, role)
    llm = sys.modules.get("llm")
    if llm is not None and isinstance(model, llm.EmbeddingModel):
        # A model of llm looks up its key in embed_multi, not in embed_batch.
        answer: Iterable[VectorLike] = model.embed_multi(items, batch_size=len(items))
        return answer
    return model.embed_batch(items)


def can_be_awaited(model: SupportsEmbedding, role: Role) -> bool:
    """Return whether `call_async` can call a model."""
    if _has_queries(model, role):
        return has_own(model, "aembed_queries", "embed_queries")
    return has_own(model, "aembed_batch", "embed_batch")


async def call_async(
    model: SupportsEmbedding, items: list[Any], role: Role
) -> Iterable[VectorLike]:
    """Return the answer of a model that can be awaited."""
    if _has_queries(model, role):
        vectors: Iterable[VectorLike] = await model.aembed_queries(list(items))  # type: ignore[attr-defined]
        return vectors
    items = list(all_prefixed(model, items, role))
    answer: Iterable[VectorLike] = await model.aembed_batch(items)  # type: ignore[attr-defined]
    return answer


def _has_queries(model: SupportsEmbedding, role: Role) -> bool:
    return role == "query" and has_own(model, "embed_queries", "embed_batch")


def embed_checked(
    model: SupportsEmbedding, items: list[Any], role: Role = "document"
) -> list[Float32]:
    """Return one float32 vector of shape (dimensions,) for each item, from one call of the model.

    Args:
        model: The model.
        items: Without the prefix of their role.
        role: What they are embedded for.

    Raises:
        ModelError: The model returned another number of vectors than it was given items, or
            vectors of different lengths.
        InvalidVectorError: A vector is empty, not finite or not of numbers.
    """
    # The model gets a copy: it may change its list.
    return checked_vectors(model, items, _call(model, list(items), role))


def checked_vectors(
    model: SupportsEmbedding, items: Sequence[Any], answer: Iterable[VectorLike]
) -> list[Float32]:
    """Return the vectors in a model's answer.

    Raises:
        ModelError, InvalidVectorError: As `embed_checked`.
    """
    try:
        iterator = iter(answer)
    except TypeError:
        raise ModelError(
            f"Model {model.model_id!r} returned {type(answer).__name__} instead of vectors"
        ) from None
    returned = list(iterator)
    if len(returned) != len(items):
        raise ModelError(
            f"Model {model.model_id!r} returned {len(returned)} vectors for {len(items)} items"
        )
    vectors = as_vectors(returned, label=f"of model {model.model_id!r}")
    lengths = sorted({vector.size for vector in vectors})
    if len(lengths) > 1:
        raise ModelError(
            f"Model {model.model_id!r} returned vectors of different lengths in one batch: "
            + ", ".join(map(str, lengths))
        )
    return vectors
