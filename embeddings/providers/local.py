"""A model that runs here: wordllama's static embeddings, weights in its wheel. Extra: `local`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtraError
from ..model import Content, EmbeddingModel, SupportsEmbedding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..vectors import Float32

CONFIG = "l2_supercat"
DIMENSIONS = (256, 128, 64)
GROUP_CHARACTERS = 64_000


class WordLlamaModel(EmbeddingModel):
    """wordllama's `l2_supercat`: thousands of texts a second, no network, English.

    Args:
        dimensions: 256, or 128 or 64 for its shorter, coarser vectors.
    """

    batch_size = 512

    def __init__(self, dimensions: int = DIMENSIONS[0]) -> None:
        if dimensions not in DIMENSIONS:
            raise ValueError(f"dimensions must be one of {DIMENSIONS}, not {dimensions!r}")
        self.dimensions = dimensions
        self.model_id = f"wordllama-{CONFIG}-{dimensions}"

    def embed_batch(self, items: Sequence[Content]) -> Float32:
        """Return an array of shape (len(items), dimensions), float32, rows of length 1.

        A text without a token that the model knows, such as the empty one, gives zeros.

        Raises:
            MissingExtraError: The `wordllama` package is not installed.
        """
        model = _load(self.dimensions)
        vectors: Float32 = np.empty((len(items), self.dimensions), np.float32)
        for group in _of_like_length(items):
            texts = [items[position] for position in group]
            vectors[group] = model.embed(texts, batch_size=len(texts), norm=False)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Float32 = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return unit


def _of_like_length(items: Sequence[Content]) -> Iterator[list[int]]:
    """Yield the positions of all items, in groups small enough for the memory that they take.

    wordllama pads the texts of a group to the longest, and holds a vector for every token.
    """
    group: list[int] = []
    for position in sorted(range(len(items)), key=lambda position: len(items[position])):
        if group and (len(group) + 1) * len(items[position]) > GROUP_CHARACTERS:
            yield group
            group = []
        group.append(position)
    if group:
        yield group


@functools.cache
def _load(dimensions: int) -> Any:
    try:
        import wordllama
    except ImportError:
        raise MissingExtraError("wordllama", "local") from None
    # The wheel holds the weights; a cache_dir that is the package keeps its loader off the network.
    return wordllama.WordLlama.load(
        config=CONFIG,
        dim=DIMENSIONS[0],
        trunc_dim=None if dimensions == DIMENSIONS[0] else dimensions,
        cache_dir=Path(wordllama.__file__).parent,
        disable_download=True,
    )


def register(register: Callable[[SupportsEmbedding, tuple[str, ...]], None]) -> None:
    """Register the model at each of its lengths; the weights are loaded by the first call."""
    for dimensions in DIMENSIONS:
        aliases = [f"local-{dimensions}"]
        if dimensions == DIMENSIONS[0]:
            aliases.append("local")
        register(WordLlamaModel(dimensions), tuple(aliases))
