"""A model that runs here: wordllama's static embeddings, weights in its wheel. Extra: `local`."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtraError
from ..forks import importing
from .base import Content, EmbeddingModel, Setting, SupportsEmbedding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..vectors import Float32

SETTINGS: tuple[Setting, ...] = ()
CONFIG = "l2_supercat"  # the name of the weights in wordllama's wheel
DIMENSIONS = (256, 128, 64)  # those that the weights were trained for, the default first
PIECE_LENGTH = 8_000  # characters: the most of a text that is tokenized as one piece
GROUP_LENGTH = 32_000  # characters: a call of the tokenizer takes pieces until they exceed this


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
        inference = _load(self.dimensions)
        vectors: Float32 = np.zeros((len(items), self.dimensions), np.float32)
        for group in _groups(str(item) for item in items):
            encoded = inference.tokenizer.encode_batch(
                [piece for _, piece in group], add_special_tokens=False
            )
            for (position, _), tokens in zip(group, encoded, strict=True):
                rows = np.minimum(tokens.ids, len(inference.embedding) - 1)
                vectors[position] += inference.embedding[rows].sum(axis=0)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Float32 = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return unit


def _groups(texts: Iterable[str]) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of (position of the text, piece of it); a group bounds the tokenizer's memory.

    Long texts are cut at spaces, because the tokens of a word begin anew after one.
    """
    group: list[tuple[int, str]] = []
    length = 0
    for position, text in enumerate(texts):
        start = 0
        while start < len(text):
            end = len(text)
            if end - start > PIECE_LENGTH:
                space = text.rfind(" ", start + 1, start + PIECE_LENGTH)
                end = start + PIECE_LENGTH if space < 0 else space
            group.append((position, text[start:end]))
            length += end - start
            start = end + (end < len(text) and text[end] == " ")
            if length > GROUP_LENGTH:
                yield group
                group, length = [], 0
    if group:
        yield group


@functools.cache
def _load(dimensions: int) -> Any:
    # wordllama calls logging.basicConfig when it is imported. That does nothing while the root
    # logger has a handler, so the application's logging stays as it is.
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        with importing():
            import wordllama
    except ImportError:
        raise MissingExtraError("wordllama", "local") from None
    finally:
        root.removeHandler(handler)
    # The wheel holds the weights. The loader finds them when its cache_dir is the package's folder.
    inference = wordllama.WordLlama.load(
        config=CONFIG,
        dim=DIMENSIONS[0],
        trunc_dim=None if dimensions == DIMENSIONS[0] else dimensions,
        cache_dir=Path(wordllama.__file__).parent,
        disable_download=True,
    )
    # Padding would give every piece as many tokens as the longest one has.
    inference.tokenizer.no_padding()
    return inference


def register(add: Callable[[SupportsEmbedding, tuple[str, ...]], None]) -> None:
    """Add the model in each of its dimensions; the weights are loaded by the first call."""
    for dimensions in DIMENSIONS:
        aliases = [f"local-{dimensions}"]
        if dimensions == DIMENSIONS[0]:
            aliases.append("local")
        add(WordLlamaModel(dimensions), tuple(aliases))
