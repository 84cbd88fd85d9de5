"""For tests of applications: a deterministic model, and how to put it in place of every model.

And for choosing a model, words and limits: `evaluate`, which tells how well questions are answered.

In a `conftest.py`:

    pytest_plugins = ["embeddings.testing"]

and then in a test the fixture `deterministic_models`; without pytest, `replace_models()`.

(PYTEST_DONT_REWRITE: so that a conftest may both import from here and name this as a plugin.)
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .collection import Collection
from .errors import InvalidQueryError, MissingExtraError, UnknownModelError
from .models.base import Content, EmbeddingModel, SupportsEmbedding, kinds
from .models.registry import get_embedding_model, substitute_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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
    size = DIMENSIONS // 8  # bytes
    digests = (hashlib.blake2b(word.encode(), digest_size=size).digest() for word in words)
    rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, size)
    ones = np.unpackbits(rows, axis=1).sum(axis=0, dtype=np.int64)
    return np.asarray(2 * ones - len(words), np.float32)


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


HITS = (1, 3, 10)  # among how many of the first results the answer is looked for
WAYS: dict[str, dict[str, Any]] = {
    "vectors": {},
    "words": {"words": True, "weights": (0, 1)},
    "both": {"words": True},
}


@dataclass(frozen=True)
class Quality:
    """How well one way of searching answers.

    Attributes:
        hits: By a number of results, the share of questions whose answer is among so many.
        mrr: The mean reciprocal rank: the mean of 1 / rank of the answers, 0 for one not found.
        ranks: Of each question's answer, from 1; None if it is not found.
        scores: Of each question's answer, a cosine similarity; None if it is not found.
    """

    hits: dict[int, float]
    mrr: float
    ranks: tuple[int | None, ...]
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class Evaluation:
    """How well a collection answers questions, by each way of searching it. Print it for a table.

    Attributes:
        questions: How many.
        ways: The quality of "vectors" and, where there is a text index, of "words" and "both".
    """

    questions: int
    ways: dict[str, Quality]

    def __str__(self) -> str:
        first = next(iter(self.ways.values()))
        head = ["", *(f"hit@{number}" for number in first.hits), "MRR"]
        rows = [
            [way, *(f"{share:.2f}" for share in quality.hits.values()), f"{quality.mrr:.3f}"]
            for way, quality in self.ways.items()
        ]
        return "\n".join(
            f"{row[0]:<8}" + "".join(f"{cell:>8}" for cell in row[1:]) for row in [head, *rows]
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw how many answers are among the first results, and return Matplotlib's axes.

        Args:
            ax: Axes to draw on; new ones by default.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        if ax is None:
            try:
                from matplotlib.figure import Figure
            except ImportError:
                raise MissingExtraError("matplotlib", "plot") from None
            ax = Figure().subplots()
        for way, quality in self.ways.items():
            most = max(quality.hits)
            ranks = [rank for rank in quality.ranks if rank is not None]
            shares = [
                sum(rank <= number for rank in ranks) / self.questions
                for number in range(1, most + 1)
            ]
            ax.plot(range(1, most + 1), shares, marker="o", label=f"{way}, MRR {quality.mrr:.2f}")
        ax.set_xlabel("results looked at")
        ax.set_ylabel(f"share of {self.questions} questions that are answered")
        ax.set_ylim(0, 1)
        ax.legend()
        return ax


def evaluate(
    docs: Collection[Any], questions: Iterable[tuple[str, Any]], number: int = 10
) -> Evaluation:
    """Return how well a collection finds what answers questions.

    The model is called for all questions at once.

    Args:
        docs: The collection; with a text index, words and both together are judged, too.
        questions: Pairs of a question and the id of the item that answers it, in any type that
            other methods take.
        number: How many results are looked at.

    Raises:
        InvalidQueryError: There are no questions, or something else than pairs.
        InvalidItemError: An id cannot be one.
        DoesNotExist: An item that answers is not in the collection.
        TypeError: It is no `Collection`.
    """
    if not isinstance(docs, Collection):
        raise TypeError(f"evaluate() takes a Collection, not {type(docs).__name__}")
    pairs, reference = list(questions), docs.reference
    if not pairs or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise InvalidQueryError("evaluate() takes pairs of a question and an id, one or more")
    ids = reference.ids_of((id for _, id in pairs), "questions")
    answers = reference.keys.from_texts(ids)
    for id, answer in dict(zip(ids, answers, strict=True)).items():
        if answer not in docs:
            raise reference.id_not_found(id)
    with reference.work() as work:
        has_words = reference.existing(work).language is not None
    texts = [question for question, _ in pairs]
    ways = {}
    for way in WAYS if has_words else ["vectors"]:
        found = docs.similar_multi(texts, number, **WAYS[way])
        ranks: list[int | None] = []
        scores: list[float | None] = []
        for entries, answer in zip(found, answers, strict=True):
            places = [at for at, entry in enumerate(entries, 1) if entry.id == answer]
            ranks.append(places[0] if places else None)
            scores.append(entries[places[0] - 1].score if places else None)
        hits = {
            most: sum(rank is not None and rank <= most for rank in ranks) / len(pairs)
            for most in sorted({*(least for least in HITS if least < number), number})
        }
        mrr = sum(1 / rank for rank in ranks if rank is not None) / len(pairs)
        ways[way] = Quality(hits, mrr, tuple(ranks), tuple(scores))
    return Evaluation(len(pairs), ways)


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
