"""What a collection is declared with: a Django model, and what is embedded of its instances."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, FieldError, ObjectDoesNotExist
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import (
    CharField,
    Field,
    ForeignObjectRel,
    IntegerField,
    Manager,
    Model,
    Q,
    TextField,
    UUIDField,
    prefetch_related_objects,
)
from django.db.models.constants import LOOKUP_SEP
from sqlalchemy import BigInteger, Text, Uuid, column

from ...errors import InvalidItemError
from ...keys import keys_of
from ...values import as_json, check_is_called, checked_content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.types import TypeEngine

    from ...models.base import Content
    from ...values import Metadata

M = TypeVar("M", bound=Model)
TextOf: TypeAlias = "Callable[[M], Content | None]"

KEY = "embeddings_key"
BETWEEN = "\n\n"  # the texts of several fields
AMONG = ", "  # the values that a path to several rows leads to


class _Encoder(DjangoJSONEncoder):
    """Django's, but for what has a form of its own in metadata, by which filters seek it."""

    def default(self, o: object) -> Any:
        """Return what JSON has for a value."""
        found = as_json(o)
        return super().default(o) if found is o else found


class Problem(NamedTuple):
    """What is wrong with a declaration, as `manage.py check` says it."""

    id: str
    message: str
    hint: str | None = None


class Row(NamedTuple):
    """What is stored of an instance."""

    key: Any
    content: Content | None
    """None where there is no text: then it is not in the collection."""
    metadata: Metadata | None


class Source(Generic[M]):
    """The rows that a collection is about.

    Args:
        model: The Django model, or "app_label.Model".
        text: The names of fields or paths over relations, or a function of an instance.
        where: Which rows are in the collection; None for all.
        metadata: The fields or paths that are kept as metadata.
        columns: The fields that a function of an instance reads.

    Raises:
        TypeError: An argument is of another type.
    """

    def __init__(
        self,
        model: type[M] | str,
        text: str | Iterable[str] | TextOf[M],
        where: Q | None,
        metadata: Iterable[str],
        columns: Iterable[str],
    ) -> None:
        if not (isinstance(model, type) and issubclass(model, Model)) and not (
            isinstance(model, str) and model.count(".") == 1
        ):
            raise TypeError(f'Pass a Django model, or "app_label.Model", not {model!r}')
        if where is not None and not isinstance(where, Q):
            raise TypeError(f"where must be a Q, such as Q(published=True), not {where!r}")
        self._model: type[M] | str = model
        self.where = where
        self.function: TextOf[M] | None = None
        self.paths: tuple[str, ...] = ()
        if callable(text):
            check_is_called(text)
            self.function = text
        else:
            self.paths = (text,) if isinstance(text, str) else _names("text", text)
        self.metadata = _names("metadata", metadata)
        self.columns = _names("columns", columns)
        if self.columns and self.function is None:
            raise TypeError(
                "columns= goes with a function as text=; the names of fields say it all"
            )

    @property
    def model(self) -> type[M]:
        """The Django model.

        Raises:
            LookupError: There is no such model.
        """
        if isinstance(self._model, str):
            self._model = apps.get_model(self._model)
        return self._model  # type: ignore[return-value]

    @property
    def label(self) -> str:
        """The model's label, such as "shop.Product"."""
        return self._model if isinstance(self._model, str) else self._model._meta.label

    # The key

    @property
    def key_field(self) -> Field[Any, Any]:
        """The field of the primary key, or that to which a key of another model leads."""
        field: Any = self.model._meta.pk
        while field.remote_field:
            field = field.target_field
        return field

    @functools.cached_property
    def key(self) -> Any:
        """The SQLAlchemy column of the keys.

        Raises:
            TypeError: They are neither integers nor UUIDs nor text.
        """
        kinds: tuple[tuple[type[Field[Any, Any]], TypeEngine[Any]], ...] = (
            (IntegerField, BigInteger()),
            (UUIDField, Uuid()),
            (CharField, Text()),
            (TextField, Text()),
        )
        field = self.key_field
        for kind, sql_type in kinds:
            if isinstance(field, kind):
                return column(KEY, sql_type)
        raise TypeError(
            f"The primary key of {self.label} is a {type(field).__name__}; a ModelCollection takes "
            "integers, UUIDs and text"
        )

    def key_of(self, instance: M, position: int | None = None) -> Any:
        """Return an instance's key.

        Raises:
            TypeError: It is of another model.
            InvalidItemError: It has no key yet.
        """
        if not isinstance(instance, self.model):
            raise TypeError(f"This collection is of {self.label}, not of {type(instance).__name__}")
        if instance.pk is None:
            which = "The instance" if position is None else f"instances[{position}]"
            raise InvalidItemError(f"{which} of {self.label} has no primary key yet: save it first")
        return self.stored_key(instance.pk)

    def stored_key(self, key: object) -> Any:
        """Return the value that the database has of a primary key."""
        pk = self.model._meta.pk
        return pk.get_prep_value(pk.to_python(key))

    def check_keys(self, keys: list[Any]) -> None:
        """Do nothing if all of them can be ids.

        Raises:
            InvalidItemError: One can be none. The message has the model and the key.
        """
        ids = keys_of(self.key)
        if ids.to_texts(keys) is not None:
            return
        for key in keys:
            try:
                ids.to_text(key)
            except InvalidItemError as error:
                raise InvalidItemError(f"{self.label} {key!r}: {error}") from None

    # What is stored of an instance

    def row_of(self, instance: M, position: int | None = None) -> Row:
        """Return what is stored of an instance.

        Raises:
            InvalidItemError: It cannot be embedded. The message has the model, the key, the field.
        """
        key = self.key_of(instance, position)
        return Row(key, self.text_of(instance), self._metadata_of(instance))

    def text_of(self, instance: M) -> Content | None:
        """Return the text to embed, or None."""
        if self.function is not None:
            try:
                text = self.function(instance)
            except Exception as error:
                error.add_note(f"In the text of {self._named(instance)}.")
                raise
            return self._checked(text, instance)
        texts = [self._read(instance, path) for path in self.paths]
        given = [text for text in texts if text is not None]
        if len(given) == 1:
            return given[0]
        for path, text in zip(self.paths, texts, strict=True):
            if isinstance(text, bytes):
                raise InvalidItemError(
                    f"{self._named(instance)}: {path!r} is bytes, which cannot be joined"
                )
        return BETWEEN.join(given) or None  # type: ignore[arg-type]

    def _read(self, instance: M, path: str) -> Content | None:
        values = list(_values(instance, path.split(LOOKUP_SEP)))
        if len(values) == 1 and isinstance(values[0], bytes | bytearray | memoryview):
            return bytes(values[0])
        for value in values:
            if callable(value):
                raise InvalidItemError(
                    f"{self._named(instance)}: {path!r} is a method: pass a function as text="
                )
            if hasattr(value, "resolve_expression"):  # of F() and the like, which Django keeps
                raise InvalidItemError(
                    f"{self._named(instance)}: {path!r} is an expression, whose value the database "
                    "has: save the instance and call its refresh_from_db() first"
                )
        text = AMONG.join([str(value) for value in values if value is not None and value != ""])
        return self._checked(text, instance, f", {path!r}")

    def _checked(self, text: object, instance: M, path: str = "") -> Content | None:
        """Return what can be embedded, None for nothing; an error says of what."""
        if text is None or (isinstance(text, str | bytes) and not text):
            return None
        try:
            return checked_content(text)
        except InvalidItemError as error:
            raise InvalidItemError(f"{self._named(instance)}{path}: {error}") from None

    def _named(self, instance: M) -> str:
        return f"{self.label} {instance.pk!r}"

    def _metadata_of(self, instance: M) -> Metadata | None:
        if not self.metadata:
            return None
        found: Metadata = {}
        for path in self.metadata:
            values = list(_values(instance, path.split(LOOKUP_SEP)))
            are_several = _relations(self.model, path)[1]
            value = values if are_several else next(iter(values), None)
            try:
                found[path] = json.loads(json.dumps(value, cls=_Encoder))
            except TypeError as error:
                raise InvalidItemError(f"{self._named(instance)}, {path!r}: {error}") from None
        return found

    # Which rows

    def keys_that_belong(self, instances: Iterable[M], using: str) -> set[Any]:
        """Return the keys of those instances for which the condition holds in the database."""
        keys = {instance.pk for instance in instances}
        rows = self.model._base_manager.using(using).filter(self.where, pk__in=keys)
        return set(rows.values_list("pk", flat=True))

    def relations(self) -> list[str]:
        """Return the relations that are read of an instance, as `prefetch_related` takes them."""
        found = set()
        for path in (*self.paths, *self.metadata):
            if lookups := _relations(self.model, path)[0]:
                found.add(LOOKUP_SEP.join(lookups))
        return sorted(found)

    def is_of(self, model: type[Model]) -> bool:
        """Return whether rows of this collection can be deleted as a model's."""
        if isinstance(self._model, str):
            concrete = model._meta.concrete_model
            labels = {model._meta.label_lower, concrete and concrete._meta.label_lower}
            return model._meta.apps is apps and self._model.lower() in labels
        return model._meta.concrete_model is self._model._meta.concrete_model

    def instances(self, keys: list[Any], using: str) -> Iterator[tuple[Any, M]]:
        """Yield instances for which the condition holds, by their keys.

        They come with the relations that are read of them.
        """
        rows = self.model._base_manager.using(using)
        found = (rows if self.where is None else rows.filter(self.where)).in_bulk(keys)
        prefetch_related_objects([*found.values()], *self.relations())
        yield from found.items()

    # Which columns these are

    def own_fields(self) -> list[Field[Any, Any]]:
        """Return the fields of the rows themselves that text and metadata read.

        Raises:
            TypeError: That is not known of a function, or of what is no field.
        """
        fields: list[Field[Any, Any]] = []
        if self.function is not None and not self.columns:
            raise TypeError(
                f"Name what the function text= of {self.label} reads: columns=[...]. A change of "
                "these columns is what makes a row pending"
            )
        for path in (*self.paths, *self.columns, *self.metadata):
            field = _field(self.model, path.split(LOOKUP_SEP)[0])
            if field is None:
                raise TypeError(f"{self.label}: {path!r} is no field, and so cannot be followed")
            if getattr(field, "concrete", False) and not field.many_to_many:
                fields.append(field)
        return fields

    def plain_fields(self, *kinds: type[Field[Any, Any]]) -> list[Field[Any, Any]] | None:
        """Return the fields of the text, if SQL can join them as Python would; else None."""
        return self._plain(self.paths, kinds) if self.function is None else None

    def fields_of_metadata(
        self, *kinds: type[Field[Any, Any]]
    ) -> dict[str, Field[Any, Any]] | None:
        """Return the fields of the metadata by their names, if SQL gives what Python would."""
        fields = self._plain(self.metadata, kinds)
        return None if fields is None else dict(zip(self.metadata, fields, strict=True))

    def _plain(
        self, paths: Iterable[str], kinds: tuple[type[Field[Any, Any]], ...]
    ) -> list[Field[Any, Any]] | None:
        fields = [_field(self.model, path) for path in paths]
        are_plain = all(
            isinstance(field, kinds)
            and not field.is_relation
            and not hasattr(field, "from_db_value")
            and field.model._meta.concrete_model is self.model._meta.concrete_model
            for field in fields
        )
        return fields if are_plain else None

    # What is wrong with it

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the declaration; E are errors, I is for information."""
        try:
            meta = self.model._meta
        except LookupError as error:
            yield Problem("E010", f"there is no model {self.label!r}: {str(error).rstrip('.')}")
            return
        if meta.abstract:
            yield Problem(
                "E010",
                f"{self.label} is abstract and has no rows",
                "Declare a collection for each model that inherits from it.",
            )
            return
        if meta.swapped:
            yield Problem("E010", f"{self.label} was swapped for {meta.swapped}")
            return
        try:
            _ = self.key
        except (TypeError, AttributeError) as error:
            yield Problem("E011", str(error))
        for argument, paths in (
            ("text", self.paths),
            ("metadata", self.metadata),
            ("columns", self.columns),
        ):
            for path in paths:
                yield from self._problems_of(argument, path)
        yield from self._problems_of_where()

    def _problems_of(self, argument: str, path: str) -> Iterator[Problem]:
        model, names = self.model, path.split(LOOKUP_SEP)
        for position, name in enumerate(names):
            field = _field(model, name)
            if field is None and position == len(names) - 1 and _is_attribute(model, name):
                return
            if field is None:
                known = sorted(each.name for each in model._meta.get_fields())
                close = get_close_matches(name, known, 1)
                yield Problem(
                    "E012",
                    f"{argument}: {path!r}: {model._meta.label} has no field {name!r}",
                    f"Did you mean {close[0]!r}?" if close else f"It has {', '.join(known)}.",
                )
                return
            if position < len(names) - 1:
                if not field.is_relation or field.related_model is None:
                    yield Problem(
                        "E012",
                        f"{argument}: {path!r}: {name!r} of {model._meta.label} leads to no model",
                    )
                    return
                model = field.related_model
            elif argument == "text" and field.is_relation:
                yield Problem(
                    "E012",
                    f"{argument}: {path!r} is a relation and not a text",
                    f"Name a field of {field.related_model._meta.label}: {path}__name.",
                )
                return
        if len(names) > 1:
            yield Problem(
                "I010",
                f"{argument}: {path!r}: a change of {model._meta.label} changes no row of "
                f"{self.label}, and so no embedding",
                "manage.py embeddings sync and embed_multi() bring the embeddings up to date.",
            )

    def _problems_of_where(self) -> Iterator[Problem]:
        if self.where is None:
            return
        try:
            query = self.model._base_manager.filter(self.where).query
        except (FieldError, TypeError, ValueError) as error:
            yield Problem("E013", f"where: {error}")
            return
        own = {self.model, *self.model._meta.get_parent_list()}
        tables = {model._meta.db_table for model in own}
        if any(join.table_name not in tables for join in query.alias_map.values()):
            yield Problem(
                "E013",
                "where is about rows of another model",
                f"A condition is about the fields of {self.label} alone.",
            )


def _names(argument: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{argument} must be a list of names of fields, not {given!r}")
    names = tuple(given)
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"{argument} must be a list of names of fields, not {given!r}")
    if argument == "text" and not names:
        raise TypeError("text names no field")
    return names


def _values(value: Any, names: list[str]) -> Iterator[Any]:
    """Yield what a path leads to from an instance: one value, or those of several rows."""
    for position, name in enumerate(names):
        if value is None or _has_no_rows_yet(value, name):
            return
        try:
            value = getattr(value, name)
        except ObjectDoesNotExist:  # of a relation to one row, from its other side
            return
        if isinstance(value, Manager):
            rows = value.all()
            # A database has an order of its own for each SELECT, and for each another text.
            for row in rows if rows.ordered else sorted(rows, key=lambda row: row.pk):
                yield from _values(row, names[position + 1 :])
            return
    yield value.pk if isinstance(value, Model) else value


def _has_no_rows_yet(value: Any, name: str) -> bool:
    """Return whether this is a relation to many of an instance that is not saved."""
    if not isinstance(value, Model) or value.pk is not None:
        return False
    field = _field(type(value), name)
    return bool(getattr(field, "many_to_many", False) or getattr(field, "one_to_many", False))


def _field(model: type[Model], name: str) -> Any:
    """Return the field or relation that an attribute of instances reads, or None."""
    for field in model._meta.get_fields():
        accessor = field.get_accessor_name() if isinstance(field, ForeignObjectRel) else field.name
        if name in {accessor, getattr(field, "attname", None)}:
            return field
    try:
        return model._meta.pk if name == "pk" else model._meta.get_field(name)
    except FieldDoesNotExist:
        return None


def _is_attribute(model: type[Model], name: str) -> bool:
    """Return whether instances have an attribute that is no field, and no method."""
    return hasattr(model, name) and not callable(getattr(model, name))


def _relations(model: type[Model], path: str) -> tuple[list[str], bool]:
    """Return the names of the relations that a path goes through, and if one is to several rows."""
    relations: list[str] = []
    is_many = False
    for name in path.split(LOOKUP_SEP):
        field = _field(model, name)
        if (
            field is None
            or field.related_model is None
            or (name != field.name and name == getattr(field, "attname", None))
        ):
            break
        relations.append(name)
        is_many = is_many or bool(field.many_to_many or field.one_to_many)
        model = field.related_model
    return relations, is_many
