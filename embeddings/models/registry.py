"""Which embedding model a name stands for: ids, aliases, the application's default.

A name is looked up among the application's own registrations, then the built-in providers, then
packages that announce themselves through the entry-point group `embeddings.models`, then the
plugins of `llm` where it is installed. Of several applications in a process each may have a default
and models of its own, which go first: see `Settings`. A name that a database row holds is
looked up in the same places and nowhere else: it never becomes a path, a URL or an import.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from ..errors import SettingsError, UnknownModelError
from ..forks import Lock, importing, renew_in_children
from . import local, openai
from .base import Provider, Setting, SupportsEmbedding, check_model, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .base import EmbeddingModel

    Substitute: TypeAlias = Callable[[str, SupportsEmbedding | None], SupportsEmbedding]

PROVIDERS: tuple[Provider, ...] = (openai, local)
"""The built-in ones; each is one file beside this one."""
ENTRY_POINTS = "embeddings.models"
DEFAULT_MODEL_VARIABLE = "EMBEDDINGS_MODEL"
MODELS_VARIABLE = "EMBEDDINGS_MODELS"
"""Models of services, in the environment as JSON, in an application's configuration as a dict."""


@dataclass(frozen=True)
class Settings:
    """What one application says about models, where a process may have several.

    Attributes:
        default: The id or alias of its default model.
        models: Its own models by id, such as those with its keys.
    """

    default: str | None = None
    models: Mapping[str, SupportsEmbedding] = field(default_factory=dict)


class Registry:
    """The models of a process: `embeddings` offers the methods of its one instance as functions.

    Args:
        providers: Those whose models are known without anybody's registration.
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers = tuple(providers)
        self._models: dict[str, SupportsEmbedding] = {}
        self._aliases: dict[str, str] = {}
        self._built_in_aliases: dict[str, str] = {}
        self._default: str | None = None
        self._substitute: Substitute | None = None
        self._frameworks: dict[str, Callable[[], Settings | None]] = {}
        self._built_in = _Once(self._register_built_in)
        self._announced = _Once(self._register_announced)
        self._lock = Lock()
        # A lock of its own: a package may register by itself while another thread imports it.
        self._announced_lock = Lock()
        renew_in_children(self)

    def __reduce__(self) -> str:
        """Pickle as the name of the one instance, so that its functions reach other processes."""
        return "REGISTRY"

    def after_fork(self) -> None:
        """Renew, in a child process, what a thread that exists only in the parent may hold."""
        self._built_in.after_fork()
        self._announced.after_fork()

    # Registering

    def register_embedding_model(
        self, model: SupportsEmbedding, aliases: Iterable[str] = ()
    ) -> None:
        """Make a model known under its `model_id` and the aliases, in place of any of that id.

        A package registers its models for every application that installs it by naming a function
        in the entry-point group `embeddings.models`; it is called with this function as its
        argument.

        Raises:
            ValueError: An alias is the id of a model; or the id or an alias is the alias of a
                built-in model: `remove_alias` and `set_alias` replace that on purpose.
        """
        check_model(model)
        new_aliases = _several(aliases)
        with self._lock:
            self._built_in.run()  # before, so that no built-in model replaces the application's
            self._check_is_free(model.model_id)
            for alias in new_aliases:
                self._check_is_free(alias, model.model_id)
                if alias in self._models or alias == model.model_id:
                    raise ValueError(f"{alias!r} is the id of a model and cannot be an alias")
            self._models[model.model_id] = model
            self._aliases.update(dict.fromkeys(new_aliases, model.model_id))

    def _check_is_free(self, name: str, model_id: str | None = None) -> None:
        """Do nothing unless a name that is to be registered is the alias of another built-in model.

        Raises:
            ValueError: It is.
        """
        built_in = self._built_in_aliases.get(name)
        if built_in not in {None, model_id} and self._aliases.get(name) == built_in:
            raise ValueError(
                f"{name!r} is the alias of the built-in model {built_in!r}: choose another name, "
                f"or call remove_alias({name!r}) first"
            )

    def set_alias(self, alias: str, name: str) -> None:
        """Let `alias` stand for the model called `name` (an id or an alias), in this process.

        Raises:
            ValueError: A model has `alias` as its id, or the alias would stand for itself.
        """
        for given in (alias, name):
            check_name(given)
        with self._lock:
            self._built_in.run()
            if alias in self._models:
                raise ValueError(f"{alias!r} is the id of a model and cannot be an alias")
            target: str | None = name
            while target is not None:
                if target == alias:
                    raise ValueError(f"alias {alias!r} would stand for itself")
                target = self._aliases.get(target)
            self._aliases[alias] = name

    def remove_alias(self, alias: str) -> None:
        """Remove an alias, in this process.

        Raises:
            KeyError: There is no such alias.
        """
        with self._lock:
            self._built_in.run()
            if alias not in self._aliases:
                raise KeyError(f"No such alias: {alias}")
            del self._aliases[alias]

    def set_default_model(self, model: SupportsEmbedding | str | None) -> None:
        """Set the model of new collections that name none; None takes the setting back.

        Without it, the environment variable EMBEDDINGS_MODEL is looked at.

        Args:
            model: An id, an alias, or a model object, which is registered on the way.
        """
        if model is None or isinstance(model, str):
            self._default = model
        else:
            self.register_embedding_model(model)
            self._default = model.model_id

    def use_settings(self, framework: str, current: Callable[[], Settings | None]) -> None:
        """Let a framework say which of its applications is at work.

        Args:
            framework: Its name. What was given before under the same name is forgotten. The
                framework that came last is asked first.
            current: Called at every look-up. Returns None when no application is at work.
        """
        others = {name: ask for name, ask in self._frameworks.items() if name != framework}
        self._frameworks = {framework: current, **others}

    @contextmanager
    def substitute_models(self, factory: Substitute) -> Iterator[None]:
        """Within the block, let `factory(model_id, model)` take the place of every model.

        For tests. The model is None where no model has the id.
        """
        before, self._substitute = self._substitute, factory
        try:
            yield
        finally:
            self._substitute = before

    # Looking up

    def get_embedding_model(self, name: str) -> EmbeddingModel:
        """Return the model with this id or alias.

        Models of `llm` have the same methods; of an object of your own it is the object itself.

        Raises:
            UnknownModelError: There is none.
        """
        check_name(name)
        model = self._find(name)
        if model is None:
            names = {*self.get_aliases()}
            names.update(known.model_id for known in self.get_embedding_models())
            alike = get_close_matches(name, sorted(names))
            error = UnknownModelError(name, next(filter(self.is_known, alike), None))
            error.add_note(
                "A model of your own is registered by register_embedding_model(), or passed as "
                "model=; those of a service can be named in EMBEDDINGS_MODELS"
            )
            raise error
        return cast("EmbeddingModel", model)

    def get_embedding_models(self) -> list[EmbeddingModel]:
        """Return every model known by now, sorted by id; those of `llm`'s plugins, too."""
        with self._announced_lock:
            self._announced.run()
        of_plugins = {model.model_id: model for model in _all_of_llm()}
        with self._lock:
            self._built_in.run()
            known = {**of_plugins, **self._models, **self._settings().models}
            models = [self.substituted(known[model_id]) for model_id in sorted(known)]
        return cast("list[EmbeddingModel]", models)

    def get_aliases(self) -> dict[str, str]:
        """Return every alias with what it stands for."""
        with self._lock:
            self._built_in.run()
            return dict(self._aliases)

    def default_model_name(self) -> str | None:
        """Return the id or alias of the application's default model, or None."""
        variable = os.environ.get(DEFAULT_MODEL_VARIABLE)
        return self._settings().default or self._default or variable or None

    def canonical_id(self, name: str) -> str:
        """Return the model id that a name stands for, or the name itself where none is known.

        A collection whose vectors come from outside may carry the id of a model that nobody can
        call.
        """
        model = self._find(name)
        return name if model is None else model.model_id

    def is_one_model(self, one: str, other: str) -> bool:
        """Return whether two names stand for one model."""
        # Equal names need no search, which may import every plugin of llm.
        return one == other or self.canonical_id(one) == self.canonical_id(other)

    def is_known(self, name: str) -> bool:
        """Return whether a model with this id or alias can be had."""
        return self._find(name) is not None

    def substituted(self, model: SupportsEmbedding) -> SupportsEmbedding:
        """Return the model, or what takes its place while `substitute_models` is in force."""
        return self._substitute(model.model_id, model) if self._substitute else model

    def provider_settings(self) -> tuple[Setting, ...]:
        """Return what an application may set for the built-in providers."""
        return tuple(setting for provider in self._providers for setting in provider.SETTINGS)

    def settings_from(
        self,
        given: Mapping[str, Any],
        default: SupportsEmbedding | str | None,
        declared: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Return the settings of an application, with models of its own where it sets a key.

        Args:
            given: The application's configuration, in which the names of `provider_settings` are
                looked up; other names, and empty values, are ignored.
            default: Its default model: an id, an alias, or an object, which is then known in this
                application by its `model_id`.
            declared: Its models of services, as `declared_models` takes them.

        Raises:
            TypeError: The default is neither a name nor a model, a value is no string, or a
                declaration has no meaning.
            ValueError: The id of the default, or of what is declared, is the alias of a built-in
                model.
        """
        models: dict[str, SupportsEmbedding] = {}

        def add(model: SupportsEmbedding, _aliases: Iterable[str] = ()) -> None:
            models[model.model_id] = model

        for provider in self._providers:
            options = {s.option: given[s.name] for s in provider.SETTINGS if given.get(s.name)}
            for setting in provider.SETTINGS:
                value = options.get(setting.option, "")
                if not isinstance(value, str):
                    raise TypeError(f"{setting.name} must be a str, not {type(value).__name__}")
            if options:
                provider.register(add, **options)
        if declared:
            with self._lock:
                self._built_in.run()
                for model in self._declared(declared):
                    add(model)
        if default is None or isinstance(default, str):
            return Settings(default, models)
        check_model(default)
        with self._lock:
            self._built_in.run()
            self._check_is_free(default.model_id)
        add(default)
        return Settings(default.model_id, models)

    def _settings(self) -> Settings:
        for current in self._frameworks.values():
            settings = current()
            if settings is not None:
                return settings
        return Settings()

    def _find(self, name: str) -> SupportsEmbedding | None:
        model = self._registered(name)
        if model is None:
            with self._announced_lock:
                self._announced.run()
            model = self._registered(name) or _find_in_llm(self._follow(name))
        if self._substitute:
            return self._substitute(model.model_id if model else self._follow(name), model)
        return model

    def _registered(self, name: str) -> SupportsEmbedding | None:
        with self._lock:
            self._built_in.run()
            model_id = self._follow(name)
            models = self._settings().models
            return models[model_id] if model_id in models else self._models.get(model_id)

    def _follow(self, name: str) -> str:
        while name not in self._models and name in self._aliases:
            name = self._aliases[name]
        return name

    # What is known without the application

    def _register_built_in(self) -> None:
        for provider in self._providers:
            provider.register(self.register_embedding_model)
        self._built_in_aliases = dict(self._aliases)
        declared = os.environ.get(MODELS_VARIABLE)
        if declared:
            try:
                for model in self._declared(_from_json(declared)):
                    self.register_embedding_model(model)
            except (TypeError, ValueError) as error:
                raise SettingsError(f"The environment variable {error}") from None

    def _declared(self, declared: object) -> list[SupportsEmbedding]:
        """Return what `declared_models` does, if the names are free."""
        models = declared_models(declared)
        for model in models:
            try:
                self._check_is_free(model.model_id)
            except ValueError as error:
                raise ValueError(f"{MODELS_VARIABLE}: {error}") from None
        return models

    def _register_announced(self) -> None:
        from importlib.metadata import entry_points

        for entry_point in entry_points(group=ENTRY_POINTS):
            try:
                with importing():
                    register = entry_point.load()
                register(self._add_announced)
            except Exception as error:  # noqa: BLE001  a package of somebody else raises anything
                warnings.warn(
                    f"The embedding models of {entry_point.value!r} cannot be loaded: {error!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _add_announced(self, model: SupportsEmbedding, aliases: Iterable[str] = ()) -> None:
        """Register a package's model, which never takes a name that is in use."""
        check_model(model)
        new_aliases = _several(aliases)
        with self._lock:
            self._built_in.run()
            if model.model_id in self._aliases:
                return
            self._models.setdefault(model.model_id, model)
            for alias in new_aliases:
                if alias not in self._models:
                    self._aliases.setdefault(alias, model.model_id)


def declared_models(declared: object) -> list[SupportsEmbedding]:
    """Return the models that a configuration declares.

    Args:
        declared: A dict of ids, each with the keyword arguments of `OpenAIEmbeddingModel`, or with
            a model object of this id.

    Raises:
        TypeError, ValueError: It is something else. The message shows no value, which could be a
            key.
    """
    if not isinstance(declared, Mapping):
        raise TypeError(
            f"{MODELS_VARIABLE} must be a dict of model ids, each with the settings of its model, "
            f"not {type(declared).__name__}"
        )
    models: list[SupportsEmbedding] = []
    for model_id, options in declared.items():
        if not isinstance(model_id, str) or not model_id:
            raise TypeError(f"{MODELS_VARIABLE}: {model_id!r} is no id of a model")
        if isinstance(options, Mapping):
            try:
                models.append(openai.from_options(model_id, options))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{MODELS_VARIABLE}: {error}") from None
            continue
        try:
            check_model(options)
        except TypeError:
            raise TypeError(
                f"{MODELS_VARIABLE}: {model_id!r} needs a dict of settings, or a model object, not "
                + type(options).__name__
            ) from None
        if options.model_id != model_id:
            raise ValueError(f"{MODELS_VARIABLE}: {model_id!r} is the model {options.model_id!r}")
        models.append(options)
    return models


def _from_json(text: str) -> object:
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        names = [name for name, _ in pairs]
        repeated.extend(name for name in found if names.count(name) > 1)
        return found

    try:
        value: object = json.loads(text, object_pairs_hook=unique)
    except ValueError:
        # The text may hold a key.
        problem = "is not JSON"
    else:
        if not repeated:
            return value
        problem = f"has {', '.join(map(repr, repeated))} twice"
    raise ValueError(f"{MODELS_VARIABLE} {problem}")


def _several(aliases: Iterable[str]) -> list[str]:
    """Return aliases, which are no string: its letters would be taken for them."""
    if isinstance(aliases, str):
        raise TypeError(f"aliases= takes several aliases, not the string {aliases!r}")
    several = list(aliases)
    for alias in several:
        check_name(alias)
    return several


class _Once:
    """An action that is done once. Its callers hold a lock.

    A call from within the action returns at once. A child process does not have the thread that
    ran the action when the parent forked: there the next call begins the action again.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._is_running = self._is_done = False

    def run(self) -> None:
        if self._is_running or self._is_done:
            return
        self._is_running = True
        try:
            self._action()
            self._is_done = True
        finally:
            self._is_running = False

    def after_fork(self) -> None:
        self._is_running = False


def _all_of_llm() -> list[SupportsEmbedding]:
    try:
        with importing():
            import llm
    except ImportError:
        return []
    models: list[SupportsEmbedding] = llm.get_embedding_models()  # type: ignore[no-untyped-call]
    return models


def _find_in_llm(name: str) -> SupportsEmbedding | None:
    try:
        with importing():
            import llm
    except ImportError:
        return None
    try:
        model: SupportsEmbedding = llm.get_embedding_model(name)  # type: ignore[no-untyped-call]
    except llm.UnknownModelError:
        return None
    return model


REGISTRY = Registry(PROVIDERS)

register_embedding_model = REGISTRY.register_embedding_model
set_alias = REGISTRY.set_alias
remove_alias = REGISTRY.remove_alias
set_default_model = REGISTRY.set_default_model
use_settings = REGISTRY.use_settings
substitute_models = REGISTRY.substitute_models
get_embedding_model = REGISTRY.get_embedding_model
get_embedding_models = REGISTRY.get_embedding_models
get_aliases = REGISTRY.get_aliases
default_model_name = REGISTRY.default_model_name
canonical_id = REGISTRY.canonical_id
is_one_model = REGISTRY.is_one_model
is_known = REGISTRY.is_known
substituted = REGISTRY.substituted
provider_settings = REGISTRY.provider_settings
settings_from = REGISTRY.settings_from
