"""Which model a name stands for: ids, aliases, the default, announced models, llm's plugins."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import textwrap
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import embeddings
from embeddings import (
    Collection,
    ModelRequiredError,
    UnknownModelError,
    get_aliases,
    get_embedding_model,
    get_embedding_models,
    register_embedding_model,
    remove_alias,
    set_alias,
    set_default_model,
)
from embeddings.models.base import Setting
from embeddings.models.registry import REGISTRY, Registry, Settings, is_known, settings_from
from embeddings.testing import DeterministicModel
from tests.forked import MODELS, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.once

ROOT = Path(embeddings.__file__).parents[1]

OPENAI = {
    "text-embedding-ada-002": ("ada", "ada-002"),
    "text-embedding-3-small": ("3-small",),
    "text-embedding-3-large": ("3-large",),
    "text-embedding-3-small-512": ("3-small-512",),
    "text-embedding-3-large-256": ("3-large-256",),
    "text-embedding-3-large-1024": ("3-large-1024",),
}
LOCAL = {
    "wordllama-l2_supercat-256": ("local", "local-256"),
    "wordllama-l2_supercat-128": ("local-128",),
    "wordllama-l2_supercat-64": ("local-64",),
}
BUILT_IN = OPENAI | LOCAL

TOY = """
class Toy:
    def __init__(self, model_id, origin):
        self.model_id, self.origin = model_id, origin

    def embed_batch(self, items):
        return [[float(len(item)), 1.0] for item in items]
"""

needs_llm = pytest.mark.skipif(not importlib.util.find_spec("llm"), reason="llm is not installed")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the aliases, the default and the built-in models as they were.

    A model that was added cannot be taken out again, which is why tests use new ids.
    """
    monkeypatch.delenv("EMBEDDINGS_MODEL", raising=False)
    aliases = get_aliases()
    models = get_embedding_models()
    yield
    set_default_model(None)
    for model in models:
        if get_embedding_model(model.model_id) is not model:
            register_embedding_model(model)
    for alias in get_aliases().keys() - aliases.keys():
        remove_alias(alias)
    for alias, name in aliases.items():
        set_alias(alias, name)


def new_model() -> DeterministicModel:
    """Return a model whose id nobody used before."""
    return DeterministicModel(f"model-{uuid4().hex}")


def new_alias() -> str:
    """Return a name that nobody used before."""
    return f"alias-{uuid4().hex}"


@pytest.fixture
def registered() -> DeterministicModel:
    """A model of the application's."""
    model = new_model()
    register_embedding_model(model)
    return model


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., Any]:
    """Run code in a new interpreter that sees tmp_path, and return the JSON of its `result`."""

    def run(*code: str, modules: tuple[str, ...] = MODELS, **environment: str) -> Any:
        kept = {name: value for name, value in os.environ.items() if name != "EMBEDDINGS_MODEL"}
        source = [
            "from embeddings import *",
            TOY,
            *map(textwrap.dedent, code),
            "import json",
            "print(json.dumps(result), flush=True)",
        ]
        done = python(
            "-c",
            "\n".join(source),
            env=kept
            | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
            | {"LLM_USER_PATH": str(tmp_path)}
            | environment,
            modules=modules,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def announce(folder: Path, name: str, source: str) -> None:
    """Install a distribution into the folder whose module announces embedding models."""
    (folder / f"{name}.py").write_text(TOY + textwrap.dedent(source))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[embeddings.models]\n{name} = {name}:register\n")


# Ids and aliases


@pytest.mark.parametrize("model_id", BUILT_IN)
def test_a_built_in_model_is_known_by_its_id(model_id):
    """The full id gives the model of that id."""
    assert get_embedding_model(model_id).model_id == model_id


def test_a_built_in_model_is_known_by_its_aliases(subtests):
    """An alias gives the very object that the id gives, and is listed."""
    for alias, model_id in [
        (alias, model_id) for model_id, aliases in BUILT_IN.items() for alias in aliases
    ]:
        with subtests.test(ascii(alias)[:60]):
            assert get_embedding_model(alias) is get_embedding_model(model_id)
            assert get_aliases()[alias] == model_id


@pytest.mark.parametrize("model_id", OPENAI)
def test_the_openai_models_take_text_in_batches_of_100(model_id):
    """The six models have the documented properties."""
    model: Any = get_embedding_model(model_id)
    assert (model.batch_size, model.supports_text, model.supports_binary) == (100, True, False)


def test_a_fresh_process_knows_exactly_the_built_in_models_and_aliases(fresh):
    """Models come sorted by id, and every alias belongs to one of them."""
    models, aliases = fresh(
        "result = [[model.model_id for model in get_embedding_models()], get_aliases()]"
    )
    assert models == sorted(BUILT_IN)
    assert aliases == {alias: id for id, aliases in BUILT_IN.items() for alias in aliases}


def test_the_same_name_gives_the_same_object():
    """A model is made once."""
    assert get_embedding_model("ada") is get_embedding_model("ada")


def test_the_lists_are_the_callers_own():
    """What is done to the returned list and dict has no effect."""
    get_embedding_models().clear()
    get_aliases().clear()
    assert get_embedding_models()
    assert get_aliases()


@pytest.mark.parametrize("name", ["x", "", "LOCAL", "it's", "ünknown", "a\nb", "%s", "{}"])
def test_an_unknown_name_is_a_key_error_with_the_documented_message(name):
    """The error is a KeyError, shows no quotes around the message, and carries the name."""
    with pytest.raises(KeyError) as raised:
        get_embedding_model(name)
    assert type(raised.value) is UnknownModelError
    assert str(raised.value) == f"Unknown model: {name}"
    assert (raised.value.name, raised.value.near) == (name, None)
    [note] = raised.value.__notes__
    assert "register_embedding_model()" in note
    assert "model=" in note


@pytest.mark.parametrize("name", [" local", "locall"])
def test_an_error_names_the_model_that_is_written_much_alike(name):
    """Only one that can be had: not an alias of nothing."""
    set_alias("locally", "nobody")
    with pytest.raises(UnknownModelError) as raised:
        get_embedding_model(name)
    remove_alias("locally")
    assert str(raised.value) == f"Unknown model: {name}. Did you mean 'local'?"


@pytest.mark.parametrize("name", ["evil", "evil:register", "evil.register", "./evil.py", "evil.py"])
def test_a_name_never_becomes_an_import(name, tmp_path, monkeypatch):
    """A module that happens to have the name is left alone."""
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError):
        get_embedding_model(name)


def test_a_set_alias_stands_for_the_model(registered):
    """An alias is known from when it is set to when it is removed."""
    alias = new_alias()
    set_alias(alias, registered.model_id)
    assert get_embedding_model(alias) is registered
    assert get_aliases()[alias] == registered.model_id
    remove_alias(alias)
    assert alias not in get_aliases()
    with pytest.raises(UnknownModelError):
        get_embedding_model(alias)


def test_an_alias_may_stand_for_an_alias(registered):
    """Aliases are followed to the model, and see when the one between is changed."""
    first, second, other = new_alias(), new_alias(), new_model()
    set_alias(first, registered.model_id)
    set_alias(second, first)
    assert get_embedding_model(second) is registered
    register_embedding_model(other)
    set_alias(first, other.model_id)
    assert get_embedding_model(second) is other


def test_an_alias_may_be_set_before_its_model_is_known():
    """Until then the error names what was asked for."""
    alias, model = new_alias(), new_model()
    set_alias(alias, model.model_id)
    with pytest.raises(UnknownModelError) as raised:
        get_embedding_model(alias)
    assert raised.value.name == alias
    register_embedding_model(model)
    assert get_embedding_model(alias) is model


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_a_circle_of_aliases_is_refused(length, registered):
    """An alias that would stand for itself, at whatever remove, changes nothing."""
    names = [new_alias() for _ in range(length)]
    for alias, name in zip(names[1:], names, strict=False):
        set_alias(alias, name)
    before = get_aliases()
    with pytest.raises(ValueError, match=names[0]):
        set_alias(names[0], names[-1])
    assert get_aliases() == before
    set_alias(names[0], registered.model_id)
    assert get_embedding_model(names[-1]) is registered


@pytest.mark.parametrize("taken", ["text-embedding-3-small", "wordllama-l2_supercat-256"])
def test_the_id_of_a_model_cannot_be_an_alias(taken, registered):
    """The id goes on standing for its own model."""
    with pytest.raises(ValueError, match=taken):
        set_alias(taken, registered.model_id)
    assert get_embedding_model(taken).model_id == taken
    assert taken not in get_aliases()


def test_removing_what_is_no_alias_is_a_key_error():
    """Neither an unknown name nor the id of a model can be removed."""
    for name in (new_alias(), "text-embedding-3-small"):
        with pytest.raises(KeyError, match=f"No such alias: {name}"):
            remove_alias(name)


def test_an_alias_of_the_applications_may_take_over_a_built_in_one(registered):
    """The last to set an alias has it."""
    set_alias("local", registered.model_id)
    assert get_embedding_model("local") is registered


# Registering


def test_a_registered_model_is_known_by_id_and_aliases():
    """Aliases may come from any iterable, and the model is listed in its place."""
    model, aliases = new_model(), [new_alias(), new_alias()]
    register_embedding_model(model, aliases=iter(aliases))
    assert [get_embedding_model(name) for name in (model.model_id, *aliases)] == [model] * 3
    assert model in get_embedding_models()
    ids = [known.model_id for known in get_embedding_models()]
    assert ids == sorted(ids)


def test_registering_again_replaces_the_model(registered):
    """The last model of an id counts, and the aliases stay with the id."""
    alias, other = new_alias(), DeterministicModel(registered.model_id)
    set_alias(alias, registered.model_id)
    register_embedding_model(other)
    assert get_embedding_model(alias) is other
    assert [m for m in get_embedding_models() if m.model_id == other.model_id] == [other]


def test_a_built_in_model_can_be_replaced():
    """An application's model of the same id is found under the built-in aliases."""
    mine = DeterministicModel("text-embedding-3-small")
    register_embedding_model(mine)
    assert get_embedding_model("3-small") is mine


def test_a_model_replaced_before_anything_was_looked_up_stays_replaced(fresh):
    """The built-in models are never loaded over the application's."""
    code = """
        mine = Toy("text-embedding-3-small", "application")
        register_embedding_model(mine)
        result = [get_embedding_model("3-small") is mine, len(get_embedding_models())]
    """
    assert fresh(code) == [True, len(BUILT_IN)]


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param("local", id="name"),
        pytest.param(None, id="None"),
        pytest.param(DeterministicModel, id="class"),
        pytest.param(
            type("M", (), {"model_id": "m", "embed_batch": lambda self, items: items}),
            id="class-with-an-id",
        ),
        pytest.param(types.SimpleNamespace(model_id="m"), id="no-embed_batch"),
        pytest.param(types.SimpleNamespace(embed_batch=list), id="no-model_id"),
    ],
)
def test_what_is_no_model_is_refused(refused):
    """A registration takes an object with model_id and embed_batch, and changes nothing else."""
    before = get_embedding_models()
    with pytest.raises(TypeError, match="takes a model object, with model_id and embed_batch"):
        register_embedding_model(refused)
    assert get_embedding_models() == before


def test_what_a_model_lacks_is_named():
    """An object of another library's has to be wrapped."""
    with pytest.raises(TypeError, match="not Other, which has no model_id and no embed_batch: der"):
        register_embedding_model(type("Other", (), {})())
    with pytest.raises(TypeError, match="which has no model_id: derive a class"):
        register_embedding_model(types.SimpleNamespace(embed_batch=list))


@pytest.mark.parametrize("model_id", [None, 5, "", b"x"])
def test_a_model_whose_id_is_no_name_is_refused(model_id):
    """An id that is no string would make the models impossible to list."""
    before = get_embedding_models()
    with pytest.raises(TypeError):
        register_embedding_model(types.SimpleNamespace(model_id=model_id, embed_batch=list))
    assert get_embedding_models() == before


@pytest.mark.parametrize(
    ("refused", "told"),
    [(5, "int$"), (b"local", "bytes$"), (DeterministicModel(), "DeterministicModel; .* model=$")],
)
def test_a_name_that_is_no_name_is_refused(session, refused, told):
    """A model object is not taken for its name, and no alias is None."""
    before = get_aliases()
    for use in (
        lambda: Collection("docs", session, model_id=refused),
        lambda: get_embedding_model(refused),
        lambda: set_alias(refused, "local"),
        lambda: set_alias("ours", refused),
        lambda: register_embedding_model(new_model(), aliases=[refused]),
    ):
        with pytest.raises(TypeError, match=f"alias of a model is a str, not {told}"):
            use()
    assert get_aliases() == before


@pytest.mark.parametrize("alias", ["3-small", "local"])
def test_the_alias_of_a_built_in_model_is_not_replaced_in_silence(alias):
    """Neither by a model of that id, nor by an alias of another one, nor by an application's."""
    before, model = get_embedding_model(alias), new_model()
    named = DeterministicModel(alias)
    for replace in (
        lambda: register_embedding_model(named),
        lambda: register_embedding_model(model, aliases=[new_alias(), alias]),
        lambda: set_default_model(named),
        lambda: settings_from({}, named),
    ):
        with pytest.raises(ValueError, match=rf"'{alias}' is the alias .*remove_alias\("):
            replace()
    assert get_embedding_model(alias) is before
    assert not is_known(model.model_id)


def test_the_alias_of_a_built_in_model_is_replaced_on_purpose():
    """What the error says to do, does it."""
    remove_alias("3-small")
    model = DeterministicModel("3-small")
    register_embedding_model(model)
    try:
        assert get_embedding_model("3-small") is model
    finally:
        del REGISTRY._models["3-small"]


def test_a_built_in_model_in_another_dress_keeps_its_aliases():
    """With a key of its own, say: the alias stands for the same id."""
    model = DeterministicModel("text-embedding-3-small")
    before = get_embedding_model("3-small")
    register_embedding_model(model, aliases=["3-small"])
    try:
        assert get_embedding_model("3-small") is model
    finally:
        register_embedding_model(before)


def test_an_announced_model_takes_no_name_that_is_in_use():
    """Not even the alias of a built-in model as its id."""
    before = get_embedding_model("3-small")
    REGISTRY._add_announced(DeterministicModel("3-small"), [])
    assert get_embedding_model("3-small") is before


@pytest.mark.parametrize("register", [register_embedding_model, REGISTRY._add_announced])
def test_a_string_in_place_of_aliases_is_refused(register):
    """A string is an iterable of letters, which nobody means; not from a package either."""
    with pytest.raises(TypeError, match="aliases"):
        register(new_model(), aliases="§")


def test_a_refused_alias_refuses_the_registration():
    """A registration with an alias that is an id takes no effect at all."""
    model, alias = new_model(), new_alias()
    with pytest.raises(ValueError, match="text-embedding-ada-002"):
        register_embedding_model(model, aliases=[alias, "text-embedding-ada-002"])
    assert alias not in get_aliases()
    with pytest.raises(UnknownModelError):
        get_embedding_model(model.model_id)


# The default of new collections


def test_without_a_default_a_new_collection_needs_a_model(session):
    """The documented error is raised at the first use."""
    with pytest.raises(ModelRequiredError, match="Either model= or model_id= must be provided"):
        Collection("docs", session).embed("a", "text")


def test_the_default_may_be_an_id_an_alias_or_an_object(session, registered):
    """A new collection that names no model has the default, under its id."""
    alias, unregistered = new_alias(), new_model()
    set_alias(alias, registered.model_id)
    cases: list[tuple[Any, DeterministicModel]] = [
        (registered.model_id, registered),
        (alias, registered),
        (unregistered, unregistered),
    ]
    for number, (default, expected) in enumerate(cases):
        set_default_model(default)
        docs = Collection(f"docs-{number}", session)
        docs.embed("a", "text")
        assert docs.model_id == expected.model_id
        assert docs.model() is expected
        assert expected.calls[-1] == ["text"]


def test_an_object_set_as_the_default_is_registered():
    """It is known by its id from then on, also after the default is taken back."""
    model = new_model()
    set_default_model(model)
    set_default_model(None)
    assert get_embedding_model(model.model_id) is model


def test_none_takes_the_default_back(session, registered):
    """Without it a new collection needs a model again."""
    set_default_model(registered)
    set_default_model(None)
    with pytest.raises(ModelRequiredError):
        Collection("docs", session).embed("a", "text")


def test_the_environment_names_the_default(session, registered, monkeypatch):
    """EMBEDDINGS_MODEL holds an id or an alias, looked at when a collection is created."""
    alias = new_alias()
    set_alias(alias, registered.model_id)
    docs = Collection("docs", session)
    monkeypatch.setenv("EMBEDDINGS_MODEL", alias)
    docs.embed("a", "text")
    assert docs.model_id == registered.model_id


def test_a_set_default_goes_before_the_environment(session, registered, monkeypatch):
    """The application's own setting wins, and the environment's comes back after it."""
    other = new_model()
    monkeypatch.setenv("EMBEDDINGS_MODEL", registered.model_id)
    set_default_model(other)
    Collection("one", session).embed("a", "text")
    set_default_model(None)
    Collection("two", session).embed("a", "text")
    assert [Collection(name, session).model_id for name in ("one", "two")] == [
        other.model_id,
        registered.model_id,
    ]


def test_an_empty_variable_is_no_default(session, monkeypatch):
    """An EMBEDDINGS_MODEL that is set to nothing is as good as none."""
    monkeypatch.setenv("EMBEDDINGS_MODEL", "")
    with pytest.raises(ModelRequiredError):
        Collection("docs", session).embed("a", "text")


def test_a_given_model_goes_before_the_default(session, registered):
    """Both model= and model_id= win."""
    set_default_model(new_model())
    given = new_model()
    Collection("one", session, model=given).embed("a", "text")
    Collection("two", session, model_id=registered.model_id).embed("a", "text")
    assert [Collection(name, session).model_id for name in ("one", "two")] == [
        given.model_id,
        registered.model_id,
    ]


def test_an_existing_collection_keeps_its_model(session, registered):
    """The default is for new collections alone."""
    Collection("docs", session, model=registered).embed("a", "text")
    set_default_model(new_model())
    docs = Collection("docs", session)
    docs.embed("b", "more")
    assert docs.model_id == registered.model_id
    assert registered.calls == [["text"], ["more"]]


@pytest.mark.parametrize("refused", [5, object(), DeterministicModel])
def test_a_default_that_is_neither_name_nor_model_is_refused(session, registered, refused):
    """The default stays what it was."""
    set_default_model(registered)
    with pytest.raises(TypeError):
        set_default_model(refused)
    docs = Collection("docs", session)
    assert docs.model_id == registered.model_id


def test_an_unknown_default_is_an_error_and_creates_nothing(session):
    """The first write names the model that is not there."""
    set_default_model("nobody")
    with pytest.raises(UnknownModelError, match="Unknown model: nobody"):
        Collection("docs", session).embed("a", "text")
    assert Collection.names(session) == []


def test_a_mistyped_default_does_not_stick_to_a_database_that_we_open(tmp_path, registered):
    """A collection opened under a default that is unknown is not created with it."""
    set_default_model("nobody")
    with Collection("docs", tmp_path / "app.db") as docs, pytest.raises(UnknownModelError):
        docs.embed("a", "text")
    set_default_model(registered)
    with Collection("docs", tmp_path / "app.db") as docs:
        docs.embed("a", "text")
        assert docs.model_id == registered.model_id


def test_an_alias_is_resolved_before_it_is_stored(session, registered):
    """What the row holds stays true when the alias is given to another model."""
    alias = new_alias()
    set_alias(alias, registered.model_id)
    Collection("docs", session, model_id=alias).embed("a", "text")
    set_alias(alias, "local")
    assert Collection("docs", session).model() is registered


# Models that installed packages announce

ONE_TOY = """
    def register(register):
        register(Toy("toy", "package"), aliases=["my-toy"])
"""
GREEDY = """
    def register(register):
        register(Toy("toy", "package"), aliases=["my-toy", "local"])
        register(Toy("text-embedding-ada-002", "package"))
"""


def test_an_announced_model_is_known_by_id_and_alias(tmp_path, fresh):
    """A function named in the entry-point group registers the package's models."""
    announce(tmp_path, "toys", ONE_TOY)
    code = """
        found = [get_embedding_model("my-toy"), get_embedding_model("toy")]
        result = [model.origin for model in found] + [found[0] in get_embedding_models()]
    """
    assert fresh(code) == ["package", "package", True]


def test_an_announced_model_may_be_the_default_of_the_environment(tmp_path, fresh):
    """A collection in memory is made with it and used."""
    announce(tmp_path, "toys", ONE_TOY)
    code = """
        docs = Collection("docs")
        docs.embed("a", "text")
        result = [docs.model_id, [entry.id for entry in docs.similar("text")]]
    """
    assert fresh(code, EMBEDDINGS_MODEL="toy") == ["toy", ["a"]]


def test_packages_are_imported_only_for_a_name_that_is_found_nowhere_else(tmp_path, fresh):
    """A built-in model does not load the packages."""
    announce(tmp_path, "toys", ONE_TOY)
    code = """
        import sys

        get_embedding_model("local")
        early = "toys" in sys.modules
        get_embedding_model("toy")
        result = [early, "toys" in sys.modules]
    """
    assert fresh(code) == [False, True]


@pytest.mark.parametrize("first", ["", "get_embedding_models()"])
def test_the_applications_own_model_goes_before_an_announced_one(first, tmp_path, fresh):
    """The application's registration counts, whether the packages were loaded before or after."""
    announce(tmp_path, "toys", GREEDY)
    code = """
        register_embedding_model(Toy("toy", "application"))
        before = get_embedding_model("toy").origin
        get_embedding_models()
        result = [before, get_embedding_model("toy").origin]
    """
    assert fresh(first, code) == ["application", "application"]


def test_an_alias_of_the_applications_goes_before_an_announced_one(tmp_path, fresh):
    """Loading the packages later does not take it away."""
    announce(tmp_path, "toys", ONE_TOY)
    code = """
        register_embedding_model(Toy("mine", "application"), aliases=["my-toy"])
        get_embedding_models()
        result = get_embedding_model("my-toy").model_id
    """
    assert fresh(code) == "mine"


def test_the_built_in_models_go_before_announced_ones(tmp_path, fresh):
    """A package takes neither a built-in id nor a built-in alias, however late it is loaded."""
    announce(tmp_path, "toys", GREEDY)
    code = """
        def found():
            models = [get_embedding_model("local"), get_embedding_model("ada")]
            return [[type(model).__name__, model.model_id] for model in models]

        before = found()
        get_embedding_models()
        result = [before, found()]
    """
    expected = [
        ["WordLlamaModel", "wordllama-l2_supercat-256"],
        ["OpenAIEmbeddingModel", "text-embedding-ada-002"],
    ]
    assert fresh(code) == [expected, expected]


def test_a_broken_package_does_not_hide_the_others(tmp_path, fresh):
    """A package that cannot be imported costs its own models alone."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('cannot be imported')")
    announce(tmp_path, "toys", ONE_TOY)
    points = tmp_path / "toys-1.0.dist-info" / "entry_points.txt"
    points.write_text("[embeddings.models]\nbroken = broken:register\ntoys = toys:register\n")
    code = """
        for name in ("nobody", "toy"):
            try:
                found = get_embedding_model(name)
            except Exception:
                found = None
        result = found and found.origin
    """
    assert fresh(code) == "package"


# Models of llm's plugins

PLUGIN = """
    import llm
    from llm.plugins import pm

    class LlmToy(llm.EmbeddingModel):
        model_id = "llm-toy"

        def embed_batch(self, items):
            return ([float(len(item)), 1.0] for item in items)

    class Plugin:
        @llm.hookimpl
        def register_embedding_models(self, register):
            register(LlmToy(), aliases=("lt",))

    pm.register(Plugin(), name="toys")
"""


@needs_llm
def test_a_model_of_an_llm_plugin_is_known_by_id_and_alias(fresh):
    """Where llm is installed its plugins' models are models here, stored under their ids."""
    code = """
        docs = Collection("docs", model_id="lt")
        docs.embed("a", "text")
        found = [type(get_embedding_model(name)).__name__ for name in ("llm-toy", "lt")]
        result = [found, docs.model_id, [entry.id for entry in docs.similar("text")]]
    """
    assert fresh(PLUGIN, code) == [["LlmToy", "LlmToy"], "llm-toy", ["a"]]


@needs_llm
def test_an_alias_in_llms_own_file_is_known(tmp_path, fresh):
    """What `llm aliases set` stored stands for the model, also through an alias of ours."""
    (tmp_path / "aliases.json").write_text('{"from-file": "llm-toy"}')
    code = """
        set_alias("ours", "from-file")
        result = [get_embedding_model(name).model_id for name in ("from-file", "ours")]
    """
    assert fresh(PLUGIN, code) == ["llm-toy", "llm-toy"]


@needs_llm
def test_a_name_that_llm_does_not_know_either_is_unknown(fresh):
    """The error is this library's, not llm's of the same name."""
    code = """
        try:
            get_embedding_model("nobody")
        except UnknownModelError as error:
            result = str(error)
    """
    assert fresh(PLUGIN, code) == "Unknown model: nobody"


@needs_llm
def test_the_built_in_models_go_before_those_of_llm(fresh):
    """Both know ada-002; here it is this library's."""
    code = 'result = type(get_embedding_model("ada-002")).__module__'
    assert fresh(PLUGIN, code) == "embeddings.models.openai"


# Threads


def test_many_threads_may_resolve_names_at_first_use(tmp_path, fresh):
    """Every thread gets every model, the same objects, and packages are loaded once."""
    slow = """
        import time

        calls = []

        def register(register):
            calls.append(1)
            time.sleep(0.05)
            register(Toy("toy", "package"), ["my-toy"])
    """
    announce(tmp_path, "toys", slow)
    code = """
        import sys, threading
        from concurrent.futures import ThreadPoolExecutor

        sys.setswitchinterval(1e-6)
        names = ["local", "3-small", "my-toy", "toy", "nobody"]
        barrier = threading.Barrier(20)

        def resolve(number):
            barrier.wait()
            found = set()
            for name in names[number % 5 :] + names[: number % 5]:
                try:
                    found.add(id(get_embedding_model(name)))
                except UnknownModelError as error:
                    assert error.name == "nobody"
            assert len(get_embedding_models()) == 10
            return frozenset(found)

        with ThreadPoolExecutor(20) as pool:
            results = list(pool.map(resolve, range(20)))
        import toys

        result = [len(set(results)), len(results[0]), len(toys.calls)]
    """
    assert fresh(code, modules=()) == [1, 3, 1]


def test_a_package_that_registers_when_it_is_imported_blocks_no_thread(tmp_path, fresh):
    """One thread may import the package by itself while another resolves a name."""
    eager = """
        import builtins, time, embeddings

        builtins.begun.set()
        time.sleep(0.2)
        embeddings.register_embedding_model(Toy("toy", "import"))

        def register(register):
            pass
    """
    announce(tmp_path, "toys", eager)
    code = """
        import builtins, importlib, threading

        builtins.begun = threading.Event()
        get_embedding_model("local")
        importing = threading.Thread(target=importlib.import_module, args=["toys"], daemon=True)
        importing.start()
        builtins.begun.wait()
        resolving = threading.Thread(target=get_embedding_models, daemon=True)
        resolving.start()
        importing.join(30)
        resolving.join(30)
        result = [importing.is_alive(), resolving.is_alive()]
    """
    assert fresh(code) == [False, False]


@pytest.mark.parametrize(
    "function",
    [get_aliases, get_embedding_model, get_embedding_models, set_default_model],
    ids=lambda function: function.__name__,
)
def test_a_function_of_the_registry_can_be_sent_to_another_process(function):
    """It may be what a pool of processes begins with."""
    assert pickle.loads(pickle.dumps(function)) == function  # noqa: S301


# Forks

IN_A_REGISTRATION = """
    def aliases():
        wait_in_parent()
        yield "never"

    def first():
        register_embedding_model(Toy("first", "application"), aliases())
"""
IN_THE_BUILT_IN_MODELS = """
    from embeddings.models import local

    def slow(add, register=local.register):
        wait_in_parent()
        register(add)

    local.register = slow
    first = get_embedding_models
"""
IN_A_PACKAGE = """
    import builtins

    builtins.wait_in_parent = wait_in_parent
    first = get_embedding_models
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(IN_A_REGISTRATION, id="registration"),
        pytest.param(IN_THE_BUILT_IN_MODELS, id="built-in-models"),
        pytest.param(IN_A_PACKAGE, id="package"),
    ],
)
def test_a_fork_while_another_thread_is_within_the_registry(first, tmp_path, fresh):
    """The child waits for no thread of the parent, and knows every model."""
    package = """
        import builtins

        def register(register):
            getattr(builtins, "wait_in_parent", lambda: None)()
            register(Toy("toy", "package"), ["my-toy"])
    """
    announce(tmp_path, "toys", package)
    prelude = """
        import os, signal, threading

        parent, entered = os.getpid(), threading.Event()

        def wait_in_parent():
            if os.getpid() == parent:
                entered.set()
                threading.Event().wait()
    """
    code = """
        threading.Thread(target=first, daemon=True).start()
        entered.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            status = 1
            try:
                register_embedding_model(Toy("mine", "application"), ["my-own"])
                set_alias("another", "my-own")
                found = [get_embedding_model(n).model_id for n in ("another", "3-small", "my-toy")]
                assert found == ["mine", "text-embedding-3-small", "toy"]
                assert len(get_embedding_models()) == 11
                status = 0
            finally:
                os._exit(status)
        result = os.waitpid(child, 0)[1]
    """
    assert fresh(prelude, first, code) == 0


# Providers


def test_a_provider_is_its_settings_and_its_models():
    """An application that gives one of the settings has models of its own with it."""

    def register(add: Callable[..., None], *, address: str = "none") -> None:
        add(types.SimpleNamespace(model_id="served", embed_batch=list, address=address), ("alias",))

    provider = types.SimpleNamespace(
        SETTINGS=(Setting("TOY_ADDRESS", "address"),), register=register
    )
    registry = Registry([provider])
    built_in: Any = registry.get_embedding_model("alias")
    assert built_in.address == "none"
    assert registry.provider_settings() == (Setting("TOY_ADDRESS", "address"),)

    given = {"TOY_ADDRESS": "mine", "OTHER": "ignored"}
    settings = registry.settings_from(given, "alias")
    assert settings.default == "alias"
    registry.use_settings("toys", lambda: settings)
    own: Any = registry.get_embedding_model("alias")
    assert own.address == "mine"
    registry.use_settings("toys", lambda: None)
    assert registry.get_embedding_model("alias") is built_in


@pytest.mark.parametrize("given", [{}, {"OPENAI_API_KEY": ""}, {"OPENAI_API_KEY": None}])
def test_an_application_without_settings_has_no_models_of_its_own(given):
    """What is empty counts as not given."""
    assert embeddings.models.registry.settings_from(given, None) == Settings()
