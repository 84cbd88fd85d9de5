"""Which embedding model a name stands for: ids, aliases, the application's default.

A name is looked up among the application's own registrations, then the built-in providers, then
packages that announce themselves through the entry-point group `embeddings.models`, then the
plugins of `llm` where it is installed. Of several applications in a process each may have a default
and models of its own, which go first: see `Settings`. A name that a database row holds is
looked up in the same places and nowhere else: it never becomes a path, a URL or an import.
"""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from ..errors import UnknownModelError
from .base import SupportsEmbedding, check_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .base import EmbeddingModel

ENTRY_POINTS = "embeddings.models"
DEFAULT_MODEL_VARIABLE = "EMBEDDINGS_MODEL"

_lock = threading.RLock()
_loading = threading.RLock()
_models: dict[str, SupportsEmbedding] = {}
_aliases: dict[str, str] = {}
_default: str | None = None
_providers_loaded = _entry_points_loaded = False
_substitute: Callable[[str, SupportsEmbedding | None], SupportsEmbedding] | None = None


@dataclass(frozen=True)
class Settings:
    """What one application says about models, where a process may have several.

    Attributes:
        default: The id or alias of its default model.
        models: Its own models by id, such as those with its keys.
    """

    default: str | None = None
    models: Mapping[str, SupportsEmbedding] = field(default_factory=dict)


_NOBODYS = Settings()
_frameworks: dict[str, Callable[[], Settings | None]] = {}


def use_settings(current: Callable[[], Settings | None]) -> None:
    """Let a framework say which of its applications is at work; None for none of them.

    It is asked at every look-up, and the framework that came last is asked first. What the same
    module has given before is forgotten.
    """
    global _frameworks
    others = {name: ask for name, ask in _frameworks.items() if name != current.__module__}
    _frameworks = {current.__module__: current, **others}


def _settings() -> Settings:
    for current in _frameworks.values():
        settings = current()
        if settings is not None:
            return settings
    return _NOBODYS


def register_embedding_model(model: SupportsEmbedding, aliases: Iterable[str] = ()) -> None:
    """Make a model known under its `model_id` and the aliases, in place of any of that id.

    A package registers its models for every application that installs it by naming a function in
    the entry-point group `embeddings.models`; it is called with this function as its argument.
    """
    check_model(model)
    if isinstance(aliases, str):
        raise TypeError(f"aliases= takes several aliases, not the string {aliases!r}")
    with _lock:
        _load_providers()  # first, so that theirs never replaces the application's
        named = list(aliases)
        for alias in named:
            if alias in _models or alias == model.model_id:
                raise ValueError(f"{alias!r} is the id of a model and cannot be an alias")
        _models[model.model_id] = model
        _aliases.update(dict.fromkeys(named, model.model_id))


def get_embedding_model(name: str) -> EmbeddingModel:
    """Return the model with this id or alias.

    Models of `llm` have the same methods; of an object of your own it is the object itself.

    Raises:
        UnknownModelError: There is none.
    """
    model = _find(name)
    if model is None:
        raise UnknownModelError(name)
    return cast("EmbeddingModel", model)


def get_embedding_models() -> list[EmbeddingModel]:
    """Return every model known by now, sorted by id: registered, built-in and announced ones."""
    _load_entry_points()
    with _lock:
        _load_providers()
        known = {**_models, **_settings().models}
        models = [substituted(known[model_id]) for model_id in sorted(known)]
    return cast("list[EmbeddingModel]", models)


def get_aliases() -> dict[str, str]:
    """Return every alias with what it stands for."""
    with _lock:
        _load_providers()
        return dict(_aliases)


def set_alias(alias: str, name: str) -> None:
    """Let `alias` stand for the model called `name` (an id or an alias), in this process.

    Raises:
        ValueError: A model has `alias` as its id, or the alias would stand for itself.
    """
    with _lock:
        _load_providers()
        if alias in _models:
            raise ValueError(f"{alias!r} is the id of a model and cannot be an alias")
        target: str | None = name
        while target is not None:
            if target == alias:
                raise ValueError(f"alias {alias!r} would stand for itself")
            target = _aliases.get(target)
        _aliases[alias] = name


def remove_alias(alias: str) -> None:
    """Remove an alias, in this process.

    Raises:
        KeyError: There is no such alias.
    """
    with _lock:
        _load_providers()
        if alias not in _aliases:
            raise KeyError(f"No such alias: {alias}")
        del _aliases[alias]


def set_default_model(model: SupportsEmbedding | str | None) -> None:
    """Set the model of new collections that name none; None takes the setting back.

    Without it, the environment variable EMBEDDINGS_MODEL is looked at.

    Args:
        model: An id, an alias, or a model object, which is registered on the way.
    """
    global _default
    if model is None or isinstance(model, str):
        _default = model
    else:
        register_embedding_model(model)
        _default = model.model_id


def default_model_name() -> str | None:
    """Return the id or alias of the application's default model, or None."""
    return _settings().default or _default or os.environ.get(DEFAULT_MODEL_VARIABLE) or None


def canonical_id(name: str) -> str:
    """Return the model id that a name stands for, or the name itself where none is known.

    A collection whose vectors come from outside may carry the id of a model that nobody can call.
    """
    model = _find(name)
    return name if model is None else model.model_id


def is_known(name: str) -> bool:
    """Return whether a model with this id or alias can be had."""
    return _find(name) is not None


def substituted(model: SupportsEmbedding) -> SupportsEmbedding:
    """Return what stands in for the model while `substitute_models` is in force, or the model."""
    return _substitute(model.model_id, model) if _substitute else model


@contextmanager
def substitute_models(
    factory: Callable[[str, SupportsEmbedding | None], SupportsEmbedding],
) -> Iterator[None]:
    """Within the block, let `factory(model_id, model)` take the place of every model; for tests.

    The model is None where no model has the id.
    """
    global _substitute
    before, _substitute = _substitute, factory
    try:
        yield
    finally:
        _substitute = before


def _find(name: str) -> SupportsEmbedding | None:
    model = _registered(name)
    if model is None:
        _load_entry_points()
        model = _registered(name) or _find_in_llm(_follow(name))
    if _substitute:
        return _substitute(model.model_id if model else _follow(name), model)
    return model


def _registered(name: str) -> SupportsEmbedding | None:
    with _lock:
        _load_providers()
        model_id = _follow(name)
        models = _settings().models
        return models[model_id] if model_id in models else _models.get(model_id)


def _follow(name: str) -> str:
    while name not in _models and name in _aliases:
        name = _aliases[name]
    return name


def _load_providers() -> None:
    global _providers_loaded
    if not _providers_loaded:
        _providers_loaded = True
        from . import local, openai

        for provider in (openai, local):
            provider.register(register_embedding_model)


def _load_entry_points() -> None:
    global _entry_points_loaded
    # A lock of its own: a package may register by itself while another thread imports it.
    with _loading:
        if _entry_points_loaded:
            return
        _entry_points_loaded = True
        from importlib.metadata import entry_points

        for entry_point in entry_points(group=ENTRY_POINTS):
            try:
                entry_point.load()(_register_announced)
            except Exception as error:  # noqa: BLE001  whatever a stranger's package raises
                warnings.warn(
                    f"The embedding models of {entry_point.value!r} cannot be loaded: {error!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )


def _register_announced(model: SupportsEmbedding, aliases: Iterable[str] = ()) -> None:
    """Register a package's model, which never takes a name that is in use."""
    check_model(model)
    with _lock:
        _load_providers()
        _models.setdefault(model.model_id, model)
        for alias in aliases:
            if alias not in _models:
                _aliases.setdefault(alias, model.model_id)


def _find_in_llm(name: str) -> SupportsEmbedding | None:
    try:
        import llm
    except ImportError:
        return None
    try:
        model: SupportsEmbedding = llm.get_embedding_model(name)  # type: ignore[no-untyped-call]
    except llm.UnknownModelError:
        return None
    return model
