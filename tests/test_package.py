"""The package as a whole: what importing it costs, its public names, its errors."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

import embeddings
from embeddings import EmbeddingsError, errors

PACKAGE = Path(embeddings.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = ("openai", "wordllama", "llm", "sqlite_utils", "pytest", "aiosqlite")
LAZY = (*OPTIONAL, "alembic", "importlib.metadata")
ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__module__ == errors.__name__
]


def fresh(code: str, *folders: Path) -> Any:
    """Run code in a new interpreter, warnings being errors, and return the JSON of its `result`."""
    source = [textwrap.dedent(code), "import json", "print(json.dumps(result))"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(source)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*folders, ROOT]))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Importing


def test_importing_the_package_imports_nothing_optional_and_nothing_slow():
    """What SQLAlchemy and NumPy do not import themselves is put off until it is needed.

    A model that is given as an object needs no search of names, which imports the plugins of llm.
    """
    code = f"""
        import sys

        import numpy, sqlalchemy.orm

        before = set(sys.modules)
        import embeddings

        imported = sorted(set({LAZY!r}) & (set(sys.modules) - before))

        from embeddings.testing import DeterministicModel

        docs = embeddings.Collection("docs", model=DeterministicModel())
        docs.embed("1", "a hound")
        docs.embed_multi([("1", "a happy hound"), ("2", "a cat")])
        docs.similar("a dog")
        result = [imported, "llm" in sys.modules]
    """
    assert fresh(code) == [[], False]


def test_the_openai_models_class_is_reachable_by_attributes_without_the_openai_package():
    """The documented path needs no import but the package's own."""
    code = """
        import sys

        import embeddings

        model = embeddings.models.openai.OpenAIEmbeddingModel("mine", base_url="http://x")
        result = [model.model_id, "openai" in sys.modules]
    """
    assert fresh(code) == ["mine", False]


def test_importing_the_package_opens_and_changes_nothing():
    """No warning filter, no log handler, no thread and no engine comes of it."""
    code = """
        import logging, threading, warnings

        import numpy, sqlalchemy.orm

        def state():
            root = logging.getLogger()
            return [len(warnings.filters), len(root.handlers), root.level, threading.active_count()]

        before = state()
        import embeddings

        result = state() == before
    """
    assert fresh(code) is True


def test_every_module_can_be_imported_without_the_optional_packages(tmp_path):
    """An optional package is imported where it is called for, not at the top of a module."""
    for name in OPTIONAL:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('No module named {name}')")
    code = """
        import importlib, pkgutil

        import django.conf

        import embeddings

        django.conf.settings.configure()  # which REST framework reads as it is imported
        found = pkgutil.walk_packages(embeddings.__path__, "embeddings.")
        names = [module.name for module in found if ".migrations" not in module.name]
        result = [importlib.import_module(name).__name__ for name in names]
    """
    expected = {
        ".".join(["embeddings", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
            ".__init__"
        )
        for path in SOURCES
        if "migrations" not in path.parts
    }
    assert set(fresh(code, tmp_path)) == expected - {"embeddings"}


def test_a_collection_works_without_the_optional_packages(tmp_path):
    """SQLAlchemy, Alembic and NumPy are enough."""
    for name in OPTIONAL:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('No module named {name}')")
    code = """
        from embeddings import Collection, UnknownModelError, get_embedding_model
        from embeddings.testing import DeterministicModel

        with Collection("docs", model=DeterministicModel()) as docs:
            docs.embed("hound", "my happy hound")
            result = [entry.id for entry in docs.similar("happy")]
        try:
            get_embedding_model("nobody")
        except UnknownModelError as error:
            result.append(str(error))
    """
    assert fresh(code, tmp_path) == ["hound", "Unknown model: nobody"]


# Public names


def public_names() -> list[str]:
    """Return what the package offers, apart from its submodules and `annotations`."""
    return [
        name
        for name, value in vars(embeddings).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and type(value).__module__ != "__future__"
    ]


def test_the_public_names_are_exactly_those_of_all():
    """Nothing is public by accident, nothing announced is missing, and the list is sorted."""
    assert embeddings.__all__ == sorted(set(embeddings.__all__))
    imported_when_asked_for = {"AsyncCollection", "AsyncPlan", "include_object", "render_item"}
    assert sorted({*public_names()} | imported_when_asked_for) == embeddings.__all__


def test_everything_public_can_be_imported_at_once():
    """A star import gives the names of __all__."""
    code = "namespace = {}\nexec('from embeddings import *', namespace)\nresult = [*namespace]"
    assert set(fresh(code)) - {"__builtins__"} == set(embeddings.__all__)


def test_a_star_import_without_an_extra():
    """It leaves out what needs the extra, which says by its own name what to install."""
    code = """
        import sys

        sys.modules["greenlet"] = None
        namespace = {}
        exec("from embeddings import *", namespace)
        import embeddings

        try:
            embeddings.AsyncCollection
        except embeddings.MissingExtraError as error:
            result = [sorted(namespace.keys() - {"__builtins__"}), str(error)]
    """
    names, told = fresh(code)
    assert names == [name for name in embeddings.__all__ if not name.startswith("Async")]
    assert "sqlalchemy-embeddings[async]" in told


def test_the_package_is_typed():
    """The marker that type checkers look for is there."""
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_one():
    """Three numbers, and maybe what comes before a release."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", embeddings.__version__)


# Errors


def drawn() -> dict[str, tuple[str, ...]]:
    """Return the bases of each class as the docstring of errors.py draws them."""
    bases: dict[str, tuple[str, ...]] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"((?:[│ ]   )*)(├── |└── )?([A-Z]\w+)(?: \((\w+)\))?(?:  |$)", line)
        if not found:
            continue
        depth = len(found[1]) // 4 + (found[2] is not None)
        above = parents[depth - 1 : depth]
        bases[found[3]] = (*above, *filter(None, [found[4]]))
        parents[depth:] = [found[3]]
    return bases


def test_the_tree_of_errors_is_as_drawn():
    """The docstring shows every class, under its parent, with its built-in."""
    assert drawn() == {
        cls.__name__: tuple(base.__name__ for base in cls.__bases__ if base is not Exception)
        for cls in ERRORS
    }


def test_an_error_is_public_and_derives_from_the_root_and_a_built_in():
    """Callers may catch everything of this library, or what they would catch anyway."""
    for cls in ERRORS:
        assert getattr(embeddings, cls.__name__) is cls
        if issubclass(cls, Warning):
            assert issubclass(cls, UserWarning)
        else:
            assert issubclass(cls, EmbeddingsError)
            general = {Exception, BaseException, object}
            built_in = {base for base in cls.__mro__ if base.__module__ == "builtins"} - general
            assert cls is EmbeddingsError or built_in


def test_every_error_that_is_raised_is_drawn():
    """No module defines an error of its own elsewhere."""
    elsewhere = [
        f"{path.name}: {node.name}"
        for path in SOURCES
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and re.search(r"(Error|Warning|Exception)$", node.name)
    ]
    assert elsewhere == []


EXAMPLES = [
    errors.DoesNotExist("Collection 'x' does not exist"),
    errors.UnknownModelError("x"),
    errors.ModelRequiredError(),
    errors.ModelMismatchError("docs", "stored", "given"),
    errors.InvalidItemError("item"),
    errors.InvalidVectorError("vector"),
    errors.ChunksMismatchError("chunks"),
    errors.InvalidQueryError("query"),
    errors.ModelError("model"),
    errors.AnswerError("model"),
    errors.AuthenticationError("model", status=401),
    errors.QuotaError("model", status=429),
    errors.RateLimitError("model", status=429, retry_after=1.0),
    errors.RefusedError("model", status=400, reason="because"),
    errors.TooLongError("model"),
    errors.UnavailableError("model"),
    errors.MissingExtraError("openai", "openai"),
    errors.SchemaError("schema"),
    errors.IndexingError("index"),
    errors.SettingsError("settings"),
    errors.BindingError("binding"),
    errors.CorruptMetadataWarning("metadata"),
    errors.CorruptVectorWarning("corrupt"),
    errors.MemoryBudgetWarning("large"),
    errors.MissingWordsWarning("words"),
]


def test_there_is_an_example_of_every_error():
    """What follows is about all of them."""
    assert {type(example) for example in EXAMPLES} == {*ERRORS} - {EmbeddingsError}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_an_error_survives_the_way_between_processes(example):
    """A worker's exception reaches its parent with its type, its message and its attributes."""
    pickled = pickle.loads(pickle.dumps(example))  # noqa: S301
    for duplicate in (pickled, copy.copy(example), copy.deepcopy(example)):
        assert type(duplicate) is type(example)
        assert str(duplicate) == str(example)
        assert vars(duplicate) == vars(example)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (errors.UnknownModelError("x"), "Unknown model: x"),
        (
            errors.ModelRequiredError(),
            "Either model= or model_id= must be provided when creating a new collection",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_documented_message_is_exact(example, message):
    """Callers match on these, and on a KeyError's first argument, which has no quotes around it."""
    assert str(example) == message
    assert example.args == (message,)
    assert message in repr(example)


def test_a_mismatch_names_both_models_and_carries_them():
    """The collection, what it holds and what it was opened with."""
    error = errors.ModelMismatchError("docs", "stored-model", "given-model")
    assert (error.collection, error.stored, error.given) == ("docs", "stored-model", "given-model")
    for part in ("'docs'", "'stored-model'", "'given-model'"):
        assert part in str(error)


def test_does_not_exist_is_also_an_attribute_of_collections(session):
    """The documented spelling catches it, on the class and on an object."""
    docs = embeddings.Collection("docs", session, create=False)
    assert embeddings.Collection.DoesNotExist is errors.DoesNotExist
    with pytest.raises(docs.DoesNotExist, match=r"^Collection 'docs' does not exist$"):
        docs.count()
