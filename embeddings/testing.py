"""For tests of applications: a deterministic model, and how to put it in place of every model.

In a `conftest.py`:

    pytest_plugins = ["embeddings.testing"]

and then in a test the fixture `deterministic_models`; without pytest, `replace_models()`.

(PYTEST_DONT_REWRITE: so that a conftest may both import from here and name this as a plugin.)
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from .errors import UnknownModelError
from .models.base import Content, EmbeddingModel, SupportsEmbedding, kinds
from .models.registry import get_embedding_model, substitute_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .vectors import Float32

DIMENSIONS = 256
"""The length of the vectors of a `DeterministicModel`."""


class DeterministicModel(EmbeddingModel):
    """A model without a network: texts that share words are near, the same text is equal.

    Each word is a vector of 256 values of -1 or 1, the bits of its hash; a text is their sum.

    Args:
        model_id: The name under which collections remember it.
        supports_binary: Whether it takes bytes too.

    Attributes:
        calls: What `embed_batch` was given, call by call; every query is.
    """

    query_cache = 0

    def __init__(self, model_id: str = "deterministic", *, supports_binary: bool = False) -> None:
        self.model_id = model_id
        self.supports_binary = supports_binary
        self.calls: list[list[Content]] = []

    def embed_batch(self, items: Sequence[Content]) -> list[Float32]:
        """Return one vector for each item, shape (256,), float32."""
        self.calls.append(list(items))
        return [_bag_of_words(item) for item in items]


def _bag_of_words(item: Content) -> Float32:
    text = item.decode("latin-1") if isinstance(item, bytes) else item
    words = re.findall(r"\w+", text.casefold()) or [text]
    vector = np.zeros(DIMENSIONS, np.float32)
    for word in words:
        digest = hashlib.blake2b(word.encode(), digest_size=DIMENSIONS // 8).digest()
        vector += np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) * 2 - 1
    return vector


@contextmanager
def replace_models() -> Iterator[Callable[[str], DeterministicModel]]:
    """Within the block, every model is a `DeterministicModel` of the same id.

    Yields a function that returns the model of an id or an alias, for a test to read its `calls`.
    A name that no model has may be asked for before models are called. Once some were, and none
    of that name, it raises UnknownModelError: nothing could be asserted about it.
    """
    models: dict[str, DeterministicModel] = {}
    known: set[str] = set()

    def model_of(model_id: str, replaced: SupportsEmbedding | None = None) -> DeterministicModel:
        model = models.setdefault(model_id, DeterministicModel(model_id))
        if replaced is not None:
            known.add(model_id)
            model.supports_binary |= "binary" in kinds(replaced)
        return model

    def called(name: str) -> DeterministicModel:
        if name not in models:
            asked = {*models}
            model_id = get_embedding_model(name).model_id
            others = sorted(id for id, model in models.items() if model.calls)
            if others and model_id not in known | asked:
                del models[model_id]
                error = UnknownModelError(name)
                error.add_note(f"Called were: {', '.join(others)}")
                raise error
            return models[model_id]
        return models[name]

    with substitute_models(model_of):
        yield called


try:
    import pytest
except ImportError:  # without pytest there is no fixture, but the model and replace_models
    pass
else:

    @pytest.fixture
    def deterministic_models() -> Iterator[Callable[[str], DeterministicModel]]:
        """Put a `DeterministicModel` in place of every model; gives the model of an id."""
        with replace_models() as model_of:
            yield model_of
