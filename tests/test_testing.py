"""embeddings.testing, as the tests of an application use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings
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
    MissingWordsWarning,
    UnknownModelError,
    cosine_similarity,
    get_embedding_model,
    get_embedding_models,
    remove_alias,
    set_alias,
)
from embeddings.testing import DIMENSIONS, DeterministicModel, evaluate, replace_models
from tests.forked import MODELS, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(embeddings.__file__).parents[1]
ODD = ["", " ", "!?…", "🎉", "\x00", "ß", "İ", "a" * 100_000, "日本語 テキスト"]


class Paid(EmbeddingModel):
    """A model that a test must never call."""

    model_id = "paid"

    def embed_batch(self, items: Any) -> Iterable[Any]:
        raise AssertionError("the real model was called")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a program in tmp_path with the library on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


@pytest.fixture
def run(
    tmp_path: Path, environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a new interpreter in tmp_path."""

    def run(*arguments: str, **others: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment | others,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def run_tests(tmp_path: Path, environment: dict[str, str]) -> Callable[..., str]:
    """Run a test file of an application, warnings being errors, and return the last line."""

    def run_tests(source: str, *options: str, conftest: str = "") -> str:
        (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        (tmp_path / "conftest.py").write_text(textwrap.dedent(conftest))
        (tmp_path / "test_app.py").write_text(textwrap.dedent(source))
        done = python(
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", *options),
            env=environment,
            cwd=tmp_path,
            modules=MODELS,
        )
        lines: list[str] = done.stdout.strip().splitlines()
        summary = lines[-1] if lines else done.stderr
        return summary.split(" in ")[0] if done.returncode == 0 else done.stdout + done.stderr

    return run_tests


# The deterministic model


def test_the_same_text_has_the_same_vector():
    """In any instance, and in any company."""
    first, second = DeterministicModel(), DeterministicModel("other")
    assert first.embed("my happy hound") == second.embed("my happy hound")
    assert list(first.embed_multi(["a", "my happy hound", "b"]))[1] == first.embed("my happy hound")


def test_another_text_has_another_vector():
    """Words that differ have different vectors."""
    model = DeterministicModel()
    vectors = {tuple(model.embed(f"word{number}")) for number in range(1_000)}
    assert len(vectors) == 1_000


def test_a_vector_has_256_dimensions():
    """As the constant says."""
    assert DIMENSIONS == 256
    assert len(DeterministicModel().embed("my happy hound")) == DIMENSIONS


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_any_text_has_a_finite_vector_that_is_not_zero(text):
    """Nothing that an application's test may embed breaks it, and everything has a direction."""
    vector = np.array(DeterministicModel().embed(text))
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) > 0


def test_texts_that_share_words_are_near(subtests):
    """Half of the words in common is nearer than none, and all in another order is the same."""
    for number in range(20):
        with subtests.test(ascii(number)[:60]):
            model = DeterministicModel()
            a, b, c, d, e, f = (f"{letter}{number}" for letter in "abcdef")
            query = model.embed(f"{a} {b} {c} {d}")
            half = cosine_similarity(query, model.embed(f"{a} {b} {e} {f}"))
            none = cosine_similarity(query, model.embed(f"{e} {f} x{number} y{number}"))
            assert abs(half - 0.5) < 0.25
            assert abs(none) < 0.25
            assert half > none
            assert cosine_similarity(query, model.embed(f"{d} {c} {b} {a}")) == pytest.approx(1.0)


def test_case_and_punctuation_do_not_matter():
    """Words are compared as a reader would."""
    model = DeterministicModel()
    assert model.embed("My happy hound!") == model.embed("my HAPPY, hound")


def test_vectors_do_not_depend_on_the_hash_seed(run):
    """Another process, with another PYTHONHASHSEED, makes the same vectors."""
    code = (
        "import json; from embeddings.testing import DeterministicModel as M;"
        "print(json.dumps(M().embed('my happy hound')))"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    made = json.loads(run("-c", code, PYTHONHASHSEED=seed).stdout)
    assert made == DeterministicModel().embed("my happy hound")


def test_calls_are_recorded():
    """What embed_batch was given, call by call, as copies."""
    model = DeterministicModel()
    given = ["a", "b"]
    model.embed_batch(given)
    given.clear()
    model.embed("c")
    list(model.embed_multi("de", batch_size=1))
    assert model.calls == [["a", "b"], ["c"], ["d"], ["e"]]
    assert DeterministicModel().calls == []


def test_bytes_are_taken_on_request():
    """Whether the model takes bytes is the test's choice."""
    with pytest.raises(InvalidItemError, match="does not support binary data"):
        DeterministicModel().embed(b"hound")
    model = DeterministicModel(supports_binary=True)
    assert model.embed(b"hound") == model.embed("hound")
    assert len(model.embed(bytes(range(256)))) == DIMENSIONS


def test_it_works_in_a_collection(session):
    """An application's test finds what shares words."""
    docs = Collection("docs", session, model=DeterministicModel())
    docs.embed_multi([("hound", "my happy hound"), ("cat", "my dissatisfied cat")])
    assert [entry.id for entry in docs.similar("happy")] == ["hound", "cat"]
    assert docs.model_id == "deterministic"


# In place of every model


def test_every_name_gives_a_deterministic_model():
    """Built-in ones by id and alias, and names that nobody knows, each under its id."""
    with replace_models() as model_of:
        for name, model_id in [
            ("3-small", "text-embedding-3-small"),
            ("text-embedding-3-small", "text-embedding-3-small"),
            ("local", "wordllama-l2_supercat-256"),
            ("of-some-plugin", "of-some-plugin"),
        ]:
            model = get_embedding_model(name)
            assert isinstance(model, DeterministicModel)
            assert model.model_id == model_id
            assert model is model_of(model_id)


def test_the_list_of_models_is_replaced_too():
    """No real model can be had within the block."""
    known = [model.model_id for model in get_embedding_models()]
    with replace_models():
        models = get_embedding_models()
        assert [model.model_id for model in models] == known
        assert {type(model) for model in models} == {DeterministicModel}


def test_collections_by_name_and_by_object_use_it(session):
    """A collection keeps its model's id, and the model itself is never called."""
    with replace_models() as model_of:
        by_name = Collection("by-name", session, model_id="3-small")
        by_object = Collection("by-object", session, model=Paid())
        for docs in (by_name, by_object):
            docs.embed("hound", "my happy hound")
            assert [entry.id for entry in docs.similar("happy")] == ["hound"]
            assert docs.prepare("cat").vector.shape == (DIMENSIONS,)
        assert by_name.model_id == "text-embedding-3-small"
        assert by_object.model_id == "paid"
        expected = [["my happy hound"], ["happy"], ["cat"]]
        assert model_of("text-embedding-3-small").calls == expected
        assert model_of("paid").calls == expected
        assert by_object.model() is model_of("paid")


def test_what_is_asserted_about_is_what_was_called(session):
    """By the id, by an alias of any kind, and for names that nobody knows."""
    set_alias("of-mine", "of-some-plugin")
    try:
        with replace_models() as model_of:
            before = [model_of(name) for name in ("3-small", "of-some-plugin")]
            for name in ("3-small", "of-mine"):
                Collection(name, session, model_id=name).embed("hound", "my happy hound")
            names = [("3-small", "text-embedding-3-small"), ("of-mine", "of-some-plugin")]
            for same, asked in zip(names, before, strict=True):
                assert {id(model_of(name)) for name in same} == {id(asked)}
                assert asked.calls == [["my happy hound"]]
    finally:
        remove_alias("of-mine")


def test_a_name_that_nobody_knows_and_nobody_called_is_an_error(session):
    """An assertion about a mistyped name would hold whatever was called."""
    with replace_models() as model_of:
        assert model_of("of-some-plugin").calls == []
        Collection("docs", session, model_id="3-small").embed("hound", "my happy hound")
        assert model_of("3-large").calls == []
        assert model_of("of-some-plugin").calls == []
        for _ in range(2):
            with pytest.raises(UnknownModelError, match="Unknown model: 3-smal") as raised:
                model_of("3-smal")
            assert raised.value.__notes__ == ["Called were: text-embedding-3-small"]


def test_a_collection_from_before_the_block_uses_it_too(session):
    """Applications make their collections when they start."""
    docs = Collection("docs", session, model=Paid())
    with replace_models() as model_of:
        docs.embed("hound", "my happy hound")
        assert model_of("paid").calls == [["my happy hound"]]
    with pytest.raises(AssertionError, match="the real model was called"):
        docs.embed("cat", "my dissatisfied cat")


@pytest.mark.parametrize("looked_at_before", [False, True])
def test_a_model_that_takes_bytes_is_replaced_by_one_that_does(session, looked_at_before):
    """An application that embeds images can be tested, whenever the test asks for the model."""

    class Images(Paid):
        model_id = "images"
        supports_binary = True

    with replace_models() as model_of:
        if looked_at_before:
            assert model_of("images").calls == []
        docs = Collection("docs", session, model=Images())
        docs.embed("image", b"\x89PNG")
        assert docs.ids() == ["image"]
        assert model_of("images").calls == [[b"\x89PNG"]]


@pytest.mark.parametrize("fails", [False, True])
def test_the_real_models_come_back(fails):
    """After the block, however it ended, names give what they gave before."""
    before = get_embedding_model("3-small")
    if fails:
        with pytest.raises(KeyError), replace_models():
            raise KeyError("x")
    else:
        with replace_models():
            assert get_embedding_model("3-small") is not before
    assert get_embedding_model("3-small") is before


def test_blocks_may_be_nested():
    """The inner block has models of its own, and the outer one's come back."""
    with replace_models():
        outer = get_embedding_model("3-small")
        with replace_models():
            assert get_embedding_model("3-small") is not outer
        assert get_embedding_model("3-small") is outer


def test_it_holds_in_every_thread():
    """An application's workers get the replacement as well."""
    found: list[Any] = []
    with replace_models() as model_of:
        thread = threading.Thread(target=lambda: found.append(get_embedding_model("3-small")))
        thread.start()
        thread.join()
        assert found == [model_of("text-embedding-3-small")]


def test_the_default_model_is_replaced(session, monkeypatch):
    """A collection that names no model works as in production, without the network."""
    monkeypatch.setenv("EMBEDDINGS_MODEL", "3-small")
    with replace_models() as model_of:
        docs = Collection("docs", session)
        docs.embed("hound", "my happy hound")
        assert docs.model_id == "text-embedding-3-small"
        assert model_of("text-embedding-3-small").calls == [["my happy hound"]]


# As a plugin of pytest

PLUGIN = 'pytest_plugins = ["embeddings.testing"]'
APP_TEST = """
    from embeddings import Collection, EmbeddingModel

    class Paid(EmbeddingModel):
        model_id = "paid"

        def embed_batch(self, items):
            raise AssertionError("the real model was called")

    def test_search(deterministic_models):
        for name, model in (("one", {"model_id": "3-small"}), ("two", {"model": Paid()})):
            docs = Collection(name, **model)
            docs.embed("hound", "my happy hound")
            assert [entry.id for entry in docs.similar("happy")] == ["hound"]
            docs.close()
        assert deterministic_models("text-embedding-3-small").calls == [
            ["my happy hound"], ["happy"]
        ]
        assert deterministic_models("paid").calls == [["my happy hound"], ["happy"]]

    def test_every_test_has_models_of_its_own(deterministic_models):
        assert deterministic_models("paid").calls == []

    def test_without_the_fixture_the_models_are_the_real_ones():
        from embeddings import get_embedding_model

        assert type(get_embedding_model("3-small")).__name__ == "OpenAIEmbeddingModel"
"""


def test_the_fixture_replaces_the_models_of_an_application(run_tests):
    """A conftest that names the plugin is all that an application needs."""
    assert run_tests(APP_TEST, conftest=PLUGIN) == "3 passed"


def test_a_conftest_may_import_from_the_plugin_too(run_tests):
    """No warning comes of a module that is imported before it is a plugin."""
    conftest = "from embeddings.testing import DeterministicModel\n" + PLUGIN
    assert run_tests(APP_TEST, conftest=conftest) == "3 passed"


def test_the_plugin_can_be_named_on_the_command_line(run_tests):
    """The option -p is as good as a conftest."""
    assert run_tests(APP_TEST, "-p", "embeddings.testing") == "3 passed"


def test_the_fixture_can_be_used_for_every_test(run_tests):
    """A fixture of the application's own may ask for it, once and for all."""
    conftest = f"""
        import pytest

        {PLUGIN}

        @pytest.fixture(autouse=True)
        def no_network(deterministic_models):
            pass
    """
    source = """
        from embeddings import get_embedding_model

        def test_it():
            assert len(get_embedding_model("3-small").embed("hound")) == 256
    """
    assert run_tests(source, conftest=conftest) == "1 passed"


def test_the_model_is_of_use_without_pytest(tmp_path, run):
    """Where pytest is not installed, the model and replace_models are there all the same."""
    (tmp_path / "pytest.py").write_text("raise ImportError('No module named pytest')")
    code = (
        "import embeddings.testing as t; from embeddings import get_embedding_model as get\n"
        "with t.replace_models(): print(type(get('3-small')).__name__)\n"
        "print(hasattr(t, 'deterministic_models'))"
    )
    done = run("-W", "error", "-c", code)
    assert done.stdout.split() == ["DeterministicModel", "False"], done.stderr


class Axes:
    """What Matplotlib's axes are asked for, where it is not installed."""

    def __init__(self) -> None:
        self.lines: dict[str, list[float]] = {}

    def plot(self, places: range, shares: list[float], *, marker: str, label: str) -> None:
        assert (len(places), marker) == (len(shares), "o")
        self.lines[label] = shares

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_questions_are_judged_by_vectors_by_words_and_by_both():
    """Shares, mean reciprocal ranks, each answer's rank and score; a table and a plot of them."""
    docs = Collection("docs", model=DeterministicModel())
    docs.embed_multi(
        [("hound", "a happy hound"), ("cat", "a cat"), ("error", "code 1042 of x y z")]
    )
    questions = [("happy hound", "hound"), ("1042 a b c cat", "error")]
    result = evaluate(docs, questions)
    assert (result.questions, [*result.ways]) == (2, ["vectors"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingWordsWarning)
        docs.create_text_index("simple")
    docs.embed_multi(
        [("hound", "a happy hound"), ("cat", "a cat"), ("error", "code 1042 of x y z")]
    )
    result = evaluate(docs, iter(questions))
    assert [*result.ways] == ["vectors", "words", "both"]
    for way, words in {"vectors": None, "both": True}.items():
        ranks = tuple(
            [entry.id for entry in docs.similar(question, words=words)].index(id) + 1
            for question, id in questions
        )
        quality = result.ways[way]
        assert quality.ranks == ranks
        assert quality.mrr == sum(1 / rank for rank in ranks) / 2
        assert quality.hits == {
            most: sum(rank <= most for rank in ranks) / 2 for most in (1, 3, 10)
        }
    assert str(result).splitlines()[0].split() == ["hit@1", "hit@3", "hit@10", "MRR"]
    assert [line.split()[0] for line in str(result).splitlines()[1:]] == [*result.ways]
    axes = Axes()
    assert result.plot(axes) is axes
    assert [len(shares) for shares in axes.lines.values()] == [10, 10, 10]
    assert [shares[-1] for shares in axes.lines.values()] == [1.0, 1.0, 1.0]


def test_what_cannot_be_judged_is_refused():
    """No questions, and an answer that is not there, before the model is called."""
    model = DeterministicModel()
    docs = Collection("docs", model=model)
    docs.embed("a", "text")
    with pytest.raises(InvalidQueryError, match="pairs of a question and an id"):
        evaluate(docs, [])
    for no_pairs in (["text"], ["ab"], {"text": "a"}, [("text", "a", "b")]):
        with pytest.raises(InvalidQueryError, match="pairs of a question and an id"):
            evaluate(docs, no_pairs)  # type: ignore[arg-type]
    with pytest.raises(embeddings.DoesNotExist, match="ID not found: 'b' in collection 'docs'"):
        evaluate(docs, [("text", "b")])
    assert len(model.calls) == 1
