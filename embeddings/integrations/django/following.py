"""The rows that a collection follows, as tables and columns of the database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.models import (
    BooleanField,
    CharField,
    Field,
    FloatField,
    IntegerField,
    Model,
    TextField,
)
from sqlalchemy import Boolean, Column, ColumnElement, MetaData, String, Table, or_, select, text
from sqlalchemy.types import NullType

from ...following import triggers
from ...following.columns import JoinedTexts
from ...following.literals import Follow
from ...following.rows import Compared, Rows, SourceRow, TextsInPython, source_row
from ...keys import keys_of
from .internals import condition_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Select

    from ...tables.records import Records
    from ...work.operation import Work
    from .source import Source


WITH_SCHEMA = re.compile(r'"?([^"]+)"\."([^"]+)"?')
AS_DECLARED = "as declared:"
"""How the operation for a migration begins, among what `problems` returns."""


def follows_of(source: Source[Any], name: str, records: Records, alias: str) -> list[Follow]:
    """Return the tables that a collection follows: the model's, and those of its parents.

    Args:
        source: The rows.
        name: Of the collection.
        records: Beside which their changes are noted.
        alias: Of the database.

    Raises:
        TypeError: It is not known what a function of an instance reads.
    """
    model: type[Model] = source.model._meta.concrete_model
    fields = dict.fromkeys(source.own_fields())
    condition: str | None = None
    where_fields: list[Field[Any, Any]] = []
    if source.where is not None:
        condition, where_fields = condition_sql(connections[alias], model, source.where)
    follows = []
    for each in (model, *model._meta.get_parent_list()):
        columns = [
            field.column
            for field in fields | dict.fromkeys(where_fields)
            if field.model._meta.concrete_model is each
        ]
        if not columns and each is not model:
            continue
        is_held = condition is not None and {field.model for field in where_fields} <= {each}
        schema, table = place_of(each)
        follows.append(
            Follow(
                table,
                each._meta.pk.column,
                tuple(columns) or (each._meta.pk.column,),
                name,
                where=condition if is_held else None,
                schema=schema,
                embeddings=records.embeddings.fullname,
            )
        )
    return follows


def tables_of(source: Source[Any]) -> list[triggers.Place]:
    """Return the tables whose rows a model has, its own first."""
    model: type[Model] = source.model._meta.concrete_model
    return [place_of(each) for each in (model, *model._meta.get_parent_list())]


def place_of(model: type[Model]) -> triggers.Place:
    """Return the schema and the name of a model's table.

    Django has no schemas: its users name one within `db_table`, with the quotation marks.
    """
    table: str = model._meta.db_table
    found = WITH_SCHEMA.fullmatch(table)
    return (None, table) if found is None else (found[1], found[2])


def problems(
    connection: Connection,
    source: Source[Any],
    name: str,
    wanted: list[Follow],
    found: list[Follow],
) -> list[str]:
    """Return what of the triggers is missing, disabled or not as declared.

    A migration may have the columns in another order, the condition without quotation marks, and of
    a boolean "published" for "published = 1": Django 5 writes the one, Django 6 the other.
    """
    booleans = {
        field.column for field in source.model._meta.get_fields() if isinstance(field, BooleanField)
    }
    made = {given.table: given for given in found if given.collection == name}
    alike = [
        made[given.table] if _says_the_same(made.get(given.table), given, booleans) else given
        for given in wanted
    ]
    told = triggers.differences(connection, name, alike, found)
    if told:
        told += [f"{AS_DECLARED} FollowRows({_arguments(given)})" for given in wanted]
    return told


def _says_the_same(made: Follow | None, wanted: Follow, booleans: set[str]) -> bool:
    if made is None:
        return False
    one, other = (
        (given.key, {*given.columns}, given.embeddings, _bare(given.where, booleans))
        for given in (made, wanted)
    )
    return one == other


def _bare(condition: str | None, booleans: set[str]) -> str | None:
    if condition is None:
        return None
    bare = re.sub(r'["\s]', "", condition).strip("()")
    for name in map(re.escape, booleans):
        bare = re.sub(rf"(?i)\b({name})=(1|true)\b", r"\1", bare)
        bare = re.sub(rf"(?i)\b({name})=(0|false)\b", r"NOT\1", bare)
    return bare


def _arguments(given: Follow) -> str:
    values = {name: value for name, value in given.values.items() if name != "table"}
    shown = (f"{name}={value!r}" for name, value in values.items())
    return ", ".join([repr(given.table), *shown])


@dataclass(frozen=True, eq=False)
class InstanceRows(Rows):
    """Rows whose texts are made of Django's instances, which are loaded a page at a time.

    Attributes:
        source: The rows.
        alias: Of the database.
    """

    source: Source[Any] = None  # type: ignore[assignment]
    alias: str = ""

    def _read(
        self,
        work: Work,
        narrowed: Callable[[Select[Any]], Select[Any]],
        errors: dict[str, Exception],
    ) -> dict[str, SourceRow]:
        found: dict[str, SourceRow] = {}
        keys = [*work.run(narrowed(self.all(self.key))).scalars()]
        for key, instance in self.source.instances(keys, self.alias):
            self._add(found, errors, key, partial(self._of_instance, instance))
        return found

    def try_none(self, work: Work) -> None:
        """Read no row; also by Django, whose own short cut would ask nothing of the database."""
        super().try_none(work)
        list(self.source.model._base_manager.using(self.alias).extra(where=["1 = 0"]))

    def compared(
        self, work: Work, after: Any, upto: Any, beside: Callable[[Select[Any]], Select[Any]]
    ) -> Iterator[Compared]:
        """Yield what is compared of all rows of a page; those that are no items have no text."""
        page = self.between(work, self.all(self.key), after, upto)
        stored = {key: others for key, *others in work.run(beside(page))}
        found = {
            key: self._of_instance(instance)
            for key, instance in self.source.instances([*stored], self.alias)
        }
        for key, others in stored.items():
            row = found.get(key)
            text, metadata = ("", None) if row is None else (row.text, row.metadata)
            yield Compared(key, text, metadata, *others)

    def _of_instance(self, instance: Model) -> SourceRow | None:
        row = self.source.row_of(instance)
        if row.content is None:
            return None
        return source_row(self.keys, row.key, row.content, row.metadata)


def rows_of(source: Source[Any], alias: str, *, store: bool) -> Rows:
    """Return the rows that are items. Their texts are made in SQL where that gives the same."""
    model = source.model._meta.concrete_model
    texts, metadata = (
        source.plain_fields(CharField, TextField),
        source.fields_of_metadata(CharField, TextField, IntegerField, BooleanField, FloatField),
    )
    columns = {
        field.column: _column(field) for field in [*(texts or ()), *(metadata or {}).values()]
    }
    own_key = model._meta.pk.column
    columns.pop(own_key, None)
    key_type = source.key.type
    schema, name = place_of(model)
    table = Table(
        name,
        MetaData(schema=schema),
        Column(own_key, key_type, primary_key=True),
        *columns.values(),
    )
    key = table.c[own_key]
    conditions: list[ColumnElement[bool]] = []
    is_own = True
    if source.where is not None:
        sql, fields = condition_sql(connections[alias], model, source.where)
        is_own = {field.model for field in fields} <= {model}
        if is_own:
            conditions.append(text(f"({sql})".replace(":", "\\:")))  # type: ignore[arg-type]
    if texts is None or metadata is None or not is_own:
        rows = select(key).where(*conditions)
        made = TextsInPython(rows, _first, _nothing, _nothing, is_joined=False)
        return InstanceRows(key, made, None, keys_of(key), key, store, source=source, alias=alias)
    of_text = [table.c[field.column] for field in texts]
    conditions.append(or_(*(column != "" for column in of_text)))
    statement = select(
        key.label("key"),
        JoinedTexts(*of_text).label("text"),
        *(
            table.c[field.column].label(f"metadata_{at}")
            for at, field in enumerate(metadata.values())
        ),
    ).where(*conditions)
    selected_key, selected_text, *values = statement.subquery().columns
    named: dict[str, ColumnElement[Any]] = dict(zip(metadata, values, strict=True))
    keys = keys_of(key)
    return Rows(selected_key, selected_text, named or None, keys, key, store, have_text=True)


def _column(field: Field[Any, Any]) -> Column[Any]:
    if isinstance(field, BooleanField):
        return Column(field.column, Boolean())
    is_text = isinstance(field, CharField | TextField)
    return Column(field.column, String() if is_text else NullType())


def _first(row: Any) -> Any:
    return row[0]


def _nothing(row: Any) -> Any:
    raise NotImplementedError  # instances are read
