"""The vectors of the latest queries, kept with each model: to ask again costs nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..forks import Lock
from .base import EmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..vectors import Float32
    from .base import Content, SupportsEmbedding


class QueryVectors:
    """Vectors of queries by the model object and the query, those used latest.

    They live as long as the model. A model that cannot be referred to weakly has none.
    """

    def __init__(self) -> None:
        self._by_model: WeakKeyDictionary[Any, OrderedDict[Content, Float32]] = WeakKeyDictionary()
        self._lock = Lock()

    def get(self, model: SupportsEmbedding, queries: Iterable[Content]) -> dict[Content, Float32]:
        """Return the vectors that are there, by the query."""
        with self._lock:
            kept = self._of(model)
            if not kept:
                return {}
            found = {query: kept[query] for query in queries if query in kept}
            for query in found:
                kept.move_to_end(query)
            return found

    def keep(self, model: SupportsEmbedding, vectors: Mapping[Content, Float32]) -> None:
        """Keep vectors, in place of those that were used least lately."""
        with self._lock:
            kept = self._of(model)
            if kept is None:
                return
            kept.update(vectors)
            while len(kept) > _most(model):
                kept.popitem(last=False)

    def forget(self, model: SupportsEmbedding, queries: Iterable[Content]) -> None:
        """Keep the vectors of queries no longer."""
        with self._lock:
            if kept := self._of(model):
                for query in queries:
                    kept.pop(query, None)

    def _of(self, model: SupportsEmbedding) -> OrderedDict[Content, Float32] | None:
        if not _most(model):
            return None
        try:
            return self._by_model.setdefault(model, OrderedDict())
        except TypeError:  # no weak reference, or no hash
            return None


def _most(model: SupportsEmbedding) -> int:
    most: int = getattr(model, "query_cache", EmbeddingModel.query_cache)
    return most


QUERIES = QueryVectors()
