"""The setting EMBEDDINGS: the model of new collections, those of services, keys, the tables."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeGuard

from django.apps import apps
from django.conf import settings
from django.core.checks import Error
from django.core.exceptions import ImproperlyConfigured

from ...models.base import SupportsEmbedding, check_model
from ...models.registry import (
    get_embedding_models,
    is_known,
    provider_settings,
    settings_from,
    use_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.core.checks import CheckMessage

MODEL = "MODEL"
MODELS = "MODELS"
TABLE_PREFIX = "TABLE_PREFIX"
MOST_PREFIX = 20  # characters
OWN = (MODEL, MODELS, TABLE_PREFIX)
APP = "embeddings.integrations.django"
PROGRAM = "python manage.py embeddings"
"""What one types before the name of a command."""


def app_label() -> str:
    """Return the label of the app, which a project may choose.

    Raises:
        ImproperlyConfigured: The project has not installed it.
    """
    labels = [config.label for config in apps.get_app_configs() if config.name == APP]
    if not labels:
        raise ImproperlyConfigured(f"A ModelCollection needs {APP!r} in INSTALLED_APPS")
    return str(labels[0])


@functools.cache
def table_prefix() -> str:
    """Return what the names of the tables begin with; "" for the documented names."""
    given = _given().get(TABLE_PREFIX) or ""
    return given if _is_prefix(given) else ""


def apply() -> None:
    """Let the registry have what the settings say. What is wrong with them is for `check`."""
    table_prefix.cache_clear()
    given = _given()
    default, declared = given.get(MODEL), given.get(MODELS)
    found = settings_from(
        {name: value for name, value in given.items() if isinstance(value, str)},
        None if _problem_of(default, None) else default,
        None if _problem_of(None, declared) else declared,
    )
    use_settings("django", lambda: found)


def apply_changed(*, setting: str, **_: Any) -> None:
    """Do so again after `override_settings(EMBEDDINGS=...)`."""
    if setting == "EMBEDDINGS":
        apply()


def check(**_: Any) -> list[CheckMessage]:
    """Return what is wrong with the settings. No value of a key is ever shown."""
    return list(_errors())


def _errors() -> Iterator[CheckMessage]:
    given = getattr(settings, "EMBEDDINGS", {})
    if not isinstance(given, dict):
        yield Error(
            f"The setting EMBEDDINGS must be a dict, not {type(given).__name__}.",
            hint='For example EMBEDDINGS = {"MODEL": "3-small"}.',
            id="embeddings.E001",
        )
        return
    of_providers = [setting.name for setting in provider_settings()]
    for name in sorted(given.keys() - {*OWN, *of_providers}, key=str):
        yield Error(
            f"EMBEDDINGS has no setting {name!r}.",
            hint=f"It takes {', '.join((*OWN, *of_providers))}.",
            id="embeddings.E002",
        )
    for name in of_providers:
        if not isinstance(given.get(name), str | None):
            yield Error(
                f'EMBEDDINGS["{name}"] must be a string, not {type(given[name]).__name__}.',
                id="embeddings.E003",
            )
    if not _is_prefix(given.get(TABLE_PREFIX) or ""):
        yield Error(
            f'EMBEDDINGS["{TABLE_PREFIX}"] must be letters, digits and underscores, and at most '
            f"{MOST_PREFIX} of them.",
            hint='For example "search_", which makes search_collections and search_embeddings.',
            id="embeddings.E006",
        )
    problem = _problem_of(None, given.get(MODELS))
    if problem:
        yield Error(
            f'EMBEDDINGS["MODELS"]: {problem}.',
            hint='For example {"nomic": {"base_url": "http://127.0.0.1:11434/v1"}}.',
            id="embeddings.E005",
        )
    model = given.get(MODEL)
    if isinstance(model, str) and not is_known(model):
        known = ", ".join(model.model_id for model in get_embedding_models())
        yield Error(
            f'EMBEDDINGS["MODEL"] is {model!r}, and there is no such embedding model.',
            hint=f"There are {known}. Of your own, pass the object itself.",
            id="embeddings.E004",
        )
    elif not (isinstance(model, str | None) or _is_model(model)):
        yield Error(
            'EMBEDDINGS["MODEL"] must be the id or alias of an embedding model, or such a model, '
            f"not {type(model).__name__}.",
            id="embeddings.E004",
        )
    elif problem := _problem_of(model, None):
        yield Error(f'EMBEDDINGS["MODEL"]: {problem}.', id="embeddings.E004")


def _problem_of(default: Any, declared: Any) -> str | None:
    """Return what is wrong with a default model, or with models that are declared; or None."""
    try:
        settings_from({}, default, declared)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _is_prefix(value: object) -> bool:
    return isinstance(value, str) and (
        not value or (value.isidentifier() and value.isascii() and len(value) <= MOST_PREFIX)
    )


def _given() -> dict[str, Any]:
    given = getattr(settings, "EMBEDDINGS", {})
    return given if isinstance(given, dict) else {}


def _is_model(value: object) -> TypeGuard[SupportsEmbedding]:
    try:
        check_model(value)
    except TypeError:
        return False
    return True
