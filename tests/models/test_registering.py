"""Models of services, from code, from a framework's configuration or from the environment."""

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask

import embeddings
from embeddings import Collection, SettingsError, UnknownModelError
from embeddings.integrations.flask import Embeddings
from embeddings.models.openai import OpenAIEmbeddingModel
from embeddings.models.registry import PROVIDERS, Registry, declared_models
from embeddings.testing import DeterministicModel
from tests.forked import MODELS, python
from tests.provider import KEY, shown, vector_of

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.once

ROOT = Path(embeddings.__file__).parents[1]


def declared(address: str) -> dict[str, Any]:
    """Return two services, as a configuration has them."""
    return {
        "nomic": {"base_url": address, "api_key": KEY, "query_prefix": "search_query: "},
        "bge": {"base_url": address, "api_key": KEY, "api_name": "bge-m3", "max_tokens": 512},
    }


def run(
    code: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, in a folder."""
    variables = os.environ | environment
    return python("-c", textwrap.dedent(code), env=variables, cwd=folder, modules=MODELS)


def test_in_code(service):
    """One line each."""
    for model in declared_models(declared(service.base_url)):
        embeddings.register_embedding_model(model, aliases=[f"my-{model.model_id}"])
    assert embeddings.get_embedding_model("my-bge").embed("hound") == vector_of("hound")
    assert service.requests[0].body["model"] == "bge-m3"


def test_in_the_environment(service):
    """Several at once, as JSON."""
    code = """
        import embeddings

        for name in ("nomic", "bge"):
            print(embeddings.get_embedding_model(name).embed("hound"))
    """
    done = run(code, EMBEDDINGS_MODELS=json.dumps(declared(service.base_url)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(vector_of("hound"))] * 2
    assert [request.body["model"] for request in service.requests] == ["nomic", "bge-m3"]


def test_in_flasks_configuration(service):
    """Each application has its own."""
    apps = [Flask("one"), Flask("two")]
    apps[0].config.update(EMBEDDINGS_MODELS=declared(service.base_url), EMBEDDINGS_MODEL="nomic")
    for app in apps:
        Embeddings(app)
    with apps[0].app_context():
        assert embeddings.get_embedding_model("nomic").embed("hound") == vector_of("hound")
    with apps[1].app_context(), pytest.raises(UnknownModelError):
        embeddings.get_embedding_model("nomic-of-app-two")


def test_in_djangos_settings(service):
    """As EMBEDDINGS["MODELS"]; mistakes are found by `manage.py check`."""
    code = f"""
        import django
        from django.conf import settings

        settings.configure(
            INSTALLED_APPS=["embeddings.integrations.django"],
            EMBEDDINGS={{"MODEL": "nomic", "MODELS": {declared(service.base_url)!r}}},
        )
        django.setup()

        import embeddings
        from django.core.checks import run_checks
        from django.test import override_settings

        print(embeddings.get_embedding_model("nomic").embed("hound"))
        print(run_checks())
        with override_settings(EMBEDDINGS={{"MODELS": {{"x": {{"adress": "{KEY}"}}}}}}):
            print([(error.id, error.msg) for error in run_checks()])
    """
    done = run(code)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == str(vector_of("hound"))
    assert second == "[]"
    assert "embeddings.E005" in third
    assert "adress" in third
    assert KEY not in third


def test_a_model_object_may_be_declared():
    """Under its own id."""
    model = DeterministicModel("mine")
    assert declared_models({"mine": model}) == [model]
    with pytest.raises(ValueError, match="'yours' is the model 'mine'"):
        declared_models({"yours": model})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (KEY, "must be a dict.*str"),
        ([{"api_key": KEY}], "must be a dict.*list"),
        ({"": {}}, "no id"),
        ({"x": KEY}, "'x' needs a dict of settings.*str"),
        ({"x": {"adress": KEY}}, "'x' has no setting 'adress'; there are api_key, api_name"),
        ({"x": {"too_long": "cut", "api_key": KEY}}, "too_long"),
        ({"x": {"timeout": "10", "api_key": KEY}}, "'x'.*timeout must be a positive number"),
        ({"x": {"deadline": 0}}, "deadline must be a positive number"),
        ({"x": {"requests_per_minute": "60"}}, "requests_per_minute must be a positive number"),
        ({"x": {"batch_size": "100"}}, "batch_size must be a positive integer"),
        ({"x": {"dimensions": "512"}}, "dimensions must be a positive integer"),
        ({"x": {"max_retries": None}}, "max_retries must be 0 or a positive integer"),
        ({"x": {"document_prefix": None}}, "document_prefix must be a str, not NoneType"),
        ({"x": {"default_headers": KEY}}, "default_headers must be a dict, not str"),
        ({"x": {"api_key": [KEY]}}, "EMBEDDINGS_MODELS: .*'x': api_key must be a str, not list"),
        ({"x": {"base_url": 5, "api_key": KEY}}, "base_url must be a str, not int"),
        ({"x": {"api_name": 5}}, "api_name must be a str, not int"),
        ({"x": {"organization": [KEY]}}, "organization must be a str, not list"),
        ({"x": {"client": KEY}}, "client must be a client of the openai package.*, not str"),
    ],
)
def test_a_declaration_without_meaning_says_what_is_wrong(value, told):
    """And shows no value, which could be a key."""
    with pytest.raises((TypeError, ValueError), match=told) as raised:
        declared_models(value)
    assert KEY not in shown(raised.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (f'{{"x": "{KEY}"', " is not JSON"),
        (f'["{KEY}"]', " must be a dict"),
        (f'{{"x": {{"adress": "{KEY}"}}}}', ": the model 'x' has no setting 'adress'"),
        (f'{{"x": {{"api_key": "{KEY}"}}, "x": {{}}}}', " has 'x' twice"),
        (f'{{"local": {{"api_key": "{KEY}"}}}}', ": 'local' is the alias of the built-in model"),
    ],
)
def test_an_environment_that_means_nothing_says_where_it_is(monkeypatch, value, told):
    """Whatever is looked for, and without showing it; a command in one line."""
    monkeypatch.setenv("EMBEDDINGS_MODELS", value)
    told = f"The environment variable EMBEDDINGS_MODELS{told}"
    for name in ("x", "local"):
        with pytest.raises(SettingsError, match=told) as raised:
            Registry(PROVIDERS).get_embedding_model(name)
        assert KEY not in shown(raised.value)

    url = f"sqlite:///{Path(os.devnull)}"
    done = python("-m", "embeddings", "--database", url, "reembed", "docs", "x", env=os.environ)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
    assert KEY not in done.stderr


def test_no_declared_model_is_hidden_by_a_built_in_alias(monkeypatch):
    """An application that declares `local` would be given the built-in model of that alias."""
    app = Flask("one")
    app.config["EMBEDDINGS_MODELS"] = {"local": {"api_key": KEY}}
    with pytest.raises(ValueError, match="EMBEDDINGS_MODELS: 'local' is the alias of") as raised:
        Embeddings(app)
    assert KEY not in shown(raised.value)


def test_a_key_that_is_no_string_is_refused():
    """By its name in the configuration."""
    app = Flask("one")
    app.config["OPENAI_API_KEY"] = [KEY]
    with pytest.raises(TypeError, match="OPENAI_API_KEY must be a str, not list") as raised:
        Embeddings(app)
    assert KEY not in shown(raised.value)


def test_an_address_never_comes_from_a_database_row(session, service):
    """A row that names a model like a declaration names an unknown model."""
    name = json.dumps(declared(service.base_url))
    Collection("docs", session, model=DeterministicModel(name)).embed("a", "text")
    with pytest.raises(UnknownModelError):
        Collection("docs", session).similar("text")
    assert service.requests == []


def test_every_argument_of_the_model_can_be_declared():
    """But its id, which is the key of the dict."""
    options: dict[str, Any] = {"dimensions": 4, "too_long": "truncate", "requests_per_minute": 60}
    (model,) = declared_models({"x": options})
    assert isinstance(model, OpenAIEmbeddingModel)
    assert model.dimensions == 4


def test_the_page_about_services_runs(tmp_path):
    """Its code, as it stands; no service is called."""
    page = (ROOT / "docs" / "providers.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = run(
        "\n".join(blocks) + "\nprint(embeddings.get_embedding_model('azure').api_name)", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "my-deployment"
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert [model.model_id for model in declared_models(json.loads(shown))] == [
        "nomic-embed-text",
        "bge-m3",
    ]
