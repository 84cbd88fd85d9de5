"""What writing some items takes, worked out before anything is spent or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from ..keys import K
from ..models.base import BATCH_SIZE, batches, check_batch_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..keys import Keys
    from ..models.base import Content, SupportsEmbedding
    from ..vectors import Float32
    from .items import ContentKey, Item


@dataclass(repr=False, eq=False)
class Plan(Generic[K]):
    """Items on their way into a collection, from `Collection.plan` to `Collection.apply`.

    In between `embed` calls the model, with no database, and so in nobody's transaction. Ids come
    in the order in which they are stored.

    Attributes:
        collection: The name of the collection.
        model_id: The id of its embedding model.
    """

    collection: str
    model_id: str
    _model: SupportsEmbedding
    _vectors_of: Callable[[SupportsEmbedding, list[Content]], list[Float32]]
    _keys: Keys[K]
    _force: bool
    _lists: list[list[Item]]
    """From `items.fold`."""
    _missing: dict[ContentKey, Content]
    _vectors: dict[ContentKey, Float32]
    _new: set[str]
    _written: set[str]

    @property
    def new(self) -> list[K]:
        """The ids of items whose content has to be embedded."""
        return self._ids(self._new)

    @property
    def reusable(self) -> list[K]:
        """The ids of items that are written without the model.

        Their vector is there, under the same id or another.
        """
        return self._ids(self._written - self._new)

    @property
    def unchanged(self) -> list[K]:
        """The ids of items that are there already, just as they are to be."""
        ids = {item.id for items in self._lists for item in items}
        return self._ids(ids - self._new - self._written)

    def _ids(self, ids: set[str]) -> list[K]:
        return [self._keys.from_text(id) for id in sorted(ids)]

    @property
    def contents(self) -> list[Content]:
        """What the model is still to be called with: each content once. Count your tokens here."""
        return list(self._missing.values())

    def embed(self, batch_size: int = BATCH_SIZE) -> None:
        """Call the model for `contents`; no database is touched.

        If it fails, what was embedded until then is kept, and another call goes on from there.

        Args:
            batch_size: The most values in one call of the model; a smaller `batch_size` of the
                model goes first.

        Raises:
            ModelError: The model failed.
            ValueError: `batch_size` is not a positive integer.
        """
        check_batch_size(batch_size)
        own = getattr(self._model, "batch_size", None)
        for batch in batches(list(self._missing), min(batch_size, own or batch_size)):
            made = self._vectors_of(self._model, [self._missing[key] for key in batch])
            self._vectors |= zip(batch, made, strict=True)
            for key in batch:
                del self._missing[key]

    def __repr__(self) -> str:
        new, written = len(self._new), len(self._written | self._new)
        return f"<Plan for {self.collection!r}: {written} to write, {new} of them new>"
