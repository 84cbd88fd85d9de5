"""The model that runs here: lengths, neighbours, odd texts, memory, no network, threads."""

from __future__ import annotations

import json
import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import embeddings
from embeddings import (
    Collection,
    EmbeddingModel,
    InvalidItemError,
    InvalidQueryError,
    get_embedding_model,
)
from embeddings.models.local import WordLlamaModel
from tests.forked import python

if TYPE_CHECKING:
    from collections.abc import Callable

wordllama = pytest.importorskip("wordllama", reason="the extra is not installed")
pytestmark = pytest.mark.once

ROOT = Path(embeddings.__file__).parents[1]
WORDS = "the quick brown fox jumps over the lazy dog and runs into the old forest "
LONG = (WORDS * (200_000 // len(WORDS) + 1))[:200_000]
ODD = ["", " ", "\t\n\r\n ", "🎉", "👩‍👩‍👧‍👦🇺🇦", "\x00", "\ufeff", "\u200b", "ꙮ", "ά́̈", "!?…", "0"]


@pytest.fixture
def local() -> EmbeddingModel:
    """The model of 256 dimensions, as applications get it."""
    model = get_embedding_model("local")
    assert isinstance(model, EmbeddingModel)
    return model


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., Any]:
    """Run code in a new interpreter, and return the JSON of its `result`."""

    def run(code: str, modules: tuple[str, ...] = (), **environment: str) -> Any:
        source = ["from embeddings import *", textwrap.dedent(code)]
        source += ["import json", "print(json.dumps(result))"]
        done = python(
            "-c",
            "\n".join(source),
            env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)} | environment,
            cwd=tmp_path,
            modules=modules,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def cosine(model: EmbeddingModel, left: str, right: str) -> float:
    """Return the similarity of two texts."""
    return embeddings.cosine_similarity(model.embed(left), model.embed(right))


# Vectors


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [("local", 256), ("local-256", 256), ("local-128", 128), ("local-64", 64)],
)
def test_a_vector_has_the_dimensions_of_its_model_and_length_one(name, dimensions):
    """Each of the names gives vectors of its size, all of them unit vectors."""
    model = get_embedding_model(name)
    assert model.model_id == f"wordllama-l2_supercat-{dimensions}"
    vectors = np.array(list(model.embed_batch(["my happy hound", "a", WORDS])))
    assert vectors.shape == (3, dimensions)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("dimensions", [0, 1, 65, 512, -64, None, "256", 256.5, True])
def test_other_dimensions_are_refused(dimensions):
    """Only the lengths that the model was trained for mean anything."""
    with pytest.raises(ValueError, match="dimensions must be one of"):
        WordLlamaModel(dimensions)


@pytest.mark.parametrize("dimensions", [128, 64])
def test_a_shorter_vector_is_the_beginning_of_the_longest(local, dimensions):
    """The shorter vectors are the longest one cut off, and made a unit vector again."""
    whole = np.array(local.embed("my happy hound"))[:dimensions]
    shorter = WordLlamaModel(dimensions).embed("my happy hound")
    np.testing.assert_allclose(shorter, whole / np.linalg.norm(whole), atol=1e-6)


def test_the_same_text_has_the_same_vector(local):
    """It is deterministic to the bit, by itself and among others, wherever it stands."""
    alone = local.embed("my happy hound")
    others = [WORDS[:n] for n in range(40)]
    assert local.embed("my happy hound") == alone
    for position in (0, 7, 40):
        texts = [*others[:position], "my happy hound", *others[position:]]
        assert list(local.embed_multi(texts))[position] == alone


def test_another_process_makes_the_same_vectors(local, fresh):
    """Vectors of yesterday can be compared with those of today."""
    made = fresh("result = get_embedding_model('local').embed('my happy hound')")
    np.testing.assert_allclose(made, local.embed("my happy hound"), atol=1e-6)


@pytest.mark.parametrize("name", ["local", "local-128", "local-64"])
def test_what_is_near_in_meaning_is_near(name, subtests):
    """Texts without a word in common are nearer for being about the same."""
    for text, near, far in [
        ("my happy hound", "a joyful dog", "quarterly tax report"),
        ("quarterly tax report", "financial statement", "my happy hound"),
        ("how to bake bread", "a recipe for a loaf", "changing a car tyre"),
        ("the king of France", "a French monarch", "database migrations"),
    ]:
        with subtests.test(ascii(text)[:60]):
            model: Any = get_embedding_model(name)
            assert cosine(model, text, near) > cosine(model, text, far)


def test_a_collection_finds_what_is_meant(session):
    """The documented example works without a network."""
    docs = Collection("docs", session, model_id="local")
    docs.embed_multi(
        [("hound", "my happy hound"), ("cat", "my dissatisfied cat"), ("tax", "taxes")]
    )
    assert docs.similar("a joyful dog", number=1)[0].id == "hound"
    assert docs.similar_by_id("cat", number=1)[0].id == "hound"


@pytest.fixture(scope="module")
def reference() -> Callable[[str], Any]:
    """The package itself, asked for one text at a time."""
    package = Path(wordllama.__file__).parent
    loaded = wordllama.WordLlama.load(cache_dir=package, disable_download=True)

    def embed(text: str) -> Any:
        vector = loaded.embed([text])[0]
        return vector / np.linalg.norm(vector)

    return embed


def test_a_vector_is_that_of_the_package(local, reference, subtests):
    """The mean of the tokens' vectors, as wordllama computes it, made a unit vector."""
    for text in ["my happy hound", WORDS, *filter(None, ODD), "日本語 " * 50]:
        with subtests.test(ascii(text)[:60]):
            np.testing.assert_allclose(local.embed(text), reference(text), atol=1e-5)


@pytest.mark.parametrize("separator", [" ", "  ", "\n", "\t", ""])
def test_a_long_text_has_the_vector_of_the_package_but_for_a_trace(local, reference, separator):
    """However it is cut up to save memory, the direction is the same."""
    text = separator.join(f"{WORDS}{number}" for number in range(400))
    assert embeddings.cosine_similarity(local.embed(text), reference(text)) > 0.9999


# Odd texts


def test_an_odd_text_has_a_finite_vector_of_length_one_or_zero(local, subtests):
    """Nothing in a text makes NaN, an error or a wrong shape."""
    for text in ODD:
        with subtests.test(ascii(text)[:60]):
            vector = np.array(local.embed(text))
            assert vector.shape == (256,)
            assert np.isfinite(vector).all()
            assert min(abs(np.linalg.norm(vector) - 1.0), np.linalg.norm(vector)) < 1e-6


def test_the_empty_text_is_the_zero_vector(session, local):
    """It is stored, is near to nothing, and breaks no search; to search for it is an error."""
    assert local.embed("") == [0.0] * 256
    docs = Collection("docs", session, model=local)
    docs.embed_multi([("empty", ""), ("hound", "my happy hound")])
    assert [(e.id, round(e.score, 6)) for e in docs.similar("my happy hound")] == [
        ("hound", 1.0),
        ("empty", 0.0),
    ]
    with pytest.raises(InvalidQueryError, match="empty"):
        docs.similar("")


def test_odd_texts_do_not_disturb_their_neighbours(local):
    """In one batch each has the vector that it has alone."""
    texts = [text for odd in ODD for text in (odd, "my happy hound " + odd)]
    together = list(local.embed_multi(texts))
    np.testing.assert_allclose(together, [local.embed(text) for text in texts], atol=1e-6)


def test_only_odd_texts_are_a_batch_as_well(local):
    """A batch without a single known token is no division by zero."""
    assert list(local.embed_multi(["", "", ""])) == [[0.0] * 256] * 3


def test_nothing_is_no_batch(local):
    """An empty list gives an array of no rows."""
    assert np.array(local.embed_batch([])).shape[0] == 0
    assert list(local.embed_multi([])) == []


def test_bytes_are_refused(local):
    """The model takes text alone."""
    assert (local.supports_text, local.supports_binary) == (True, False)
    with pytest.raises(InvalidItemError, match="does not support binary data"):
        local.embed(b"bytes")


# Long texts


def test_a_very_long_text_among_short_ones_changes_none_of_them(local):
    """200,000 characters in a batch: everyone's vector is the one it has alone."""
    texts = [f"short text number {n}" for n in range(63)]
    texts.insert(20, LONG)
    together = list(local.embed_multi(texts))
    alone = [local.embed(text) for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_end_of_a_very_long_text_counts(local):
    """Nothing is cut off."""
    assert local.embed(LONG + "quarterly tax report " * 2_000) != local.embed(LONG)


@pytest.mark.parametrize(
    ("texts", "most"),
    [
        pytest.param("['short'] * 511 + [WORDS]", 150, id="one-long-among-short"),
        pytest.param("['short'] * 63 + ['\\U0001f389' * 60_000]", 250, id="emoji-among-short"),
        pytest.param("[WORDS * 5]", 350, id="a-million-characters"),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's figures")
def test_long_texts_take_little_memory(fresh, texts, most):
    """The peak grows by some hundred megabytes at the most, and not with the shape of the batch."""
    code = f"""
        import resource
        from pathlib import Path

        def peak():
            # Not ru_maxrss, which begins with the peak of the process that started this one.
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) // 1024

        WORDS = ({WORDS!r} * (200_000 // {len(WORDS)} + 1))[:200_000]
        model = get_embedding_model("local")
        model.embed("a")
        before = peak()
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
        try:
            vectors = list(model.embed_multi({texts}))
            result = [len(vectors), peak() - before]
        except MemoryError:
            result = ["MemoryError", 4096]
    """
    count, grown = fresh(code, ("wordllama",), TOKENIZERS_PARALLELISM="false")
    assert count != "MemoryError"
    assert grown < most  # megabytes


# The process around it


def test_no_network_is_used(fresh):
    """The weights come with the package: no socket is connected, and no name is looked up."""
    code = """
        import socket

        def refuse(*args, **options):
            raise AssertionError("the network was used")

        socket.socket.connect = socket.socket.connect_ex = refuse
        socket.getaddrinfo = socket.create_connection = refuse
        result = [len(get_embedding_model(name).embed("hound")) for name in ("local", "local-64")]
    """
    assert fresh(code) == [256, 64]


def test_no_file_is_written(fresh, tmp_path):
    """Neither the home folder nor the current one gets a cache."""
    assert fresh("result = len(get_embedding_model('local').embed('hound'))") == 256
    assert list(tmp_path.rglob("*")) == []


def test_the_logging_of_the_application_is_left_alone(fresh):
    """Calling the model configures no root logger."""
    code = """
        import logging

        get_embedding_model("local").embed("hound")
        root = logging.getLogger()
        result = [len(root.handlers), root.level]
    """
    assert fresh(code) == [0, 30]


def test_the_model_is_loaded_by_its_first_call(fresh):
    """Looking it up costs nothing."""
    code = """
        import sys

        model = get_embedding_model("local")
        get_embedding_models()
        early = "wordllama" in sys.modules
        model.embed("hound")
        result = [early, "wordllama" in sys.modules]
    """
    assert fresh(code) == [False, True]


def test_threads_may_use_the_model_at_once(local):
    """Each thread gets the vectors of its own texts."""
    texts = [WORDS[: 5 + n % 60] for n in range(200)]
    expected = [local.embed(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(local.embed, texts)) == expected
        batches = pool.map(lambda start: list(local.embed_multi(texts[start:])), range(0, 160, 20))
        for start, vectors in zip(range(0, 160, 20), batches, strict=True):
            np.testing.assert_allclose(vectors, expected[start:], atol=1e-6)


def test_threads_may_load_the_models_at_once(fresh):
    """The first calls of many threads all succeed."""
    code = """
        import threading
        from concurrent.futures import ThreadPoolExecutor

        names = ["local", "local-128", "local-64"] * 4
        barrier = threading.Barrier(len(names))

        def embed(name):
            model = get_embedding_model(name)
            barrier.wait()
            return model.embed("my happy hound")

        with ThreadPoolExecutor(len(names)) as pool:
            vectors = list(pool.map(embed, names))
        result = [sorted({len(v) for v in vectors}), len({tuple(v) for v in vectors})]
    """
    assert fresh(code) == [[64, 128, 256], 3]
