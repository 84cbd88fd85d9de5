"""A collection that is declared on a mapped class, whose rows it follows."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Enum, String, and_, case, func, inspect, literal, or_, select
from sqlalchemy.types import TypeDecorator, Uuid

from ..collection import Collection
from ..errors import InvalidItemError
from ..keys import keys_of
from ..models.base import check_model
from ..tables.records import RECORDS, Records
from ..writing.whole import checked_name
from .columns import attributes_of, checked_condition, key_of, mapper_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import Mapper, QueryableAttribute

    from ..models.base import SupportsEmbedding
    from ..sessions import DatabaseLike
    from ..values import Metadata

M = TypeVar("M")
BETWEEN = "\n\n"
"""What stands between the texts of two columns."""


@dataclass(frozen=True, init=False, eq=False, repr=False)
class ModelCollection(Generic[M]):
    """A collection that is declared on a mapped class, whose rows it follows.

    It holds no database: every method takes one first.

        articles = ModelCollection(Article, text=[Article.title, Article.body], name="articles")

    An item of it is a row for which `where` holds and whose text is not empty; its id is the
    primary key, in its type. `install`, or `op.follow_rows` in a revision, makes the triggers by
    which it follows whatever changes the rows.

    Args:
        source: A mapped class with one column as its primary key.
        text: Columns, joined by blank lines, None and "" left out; or a function that returns the
            text of an instance, None or "" if it has none.
        columns: What such a function reads.
        metadata: Columns that are kept as metadata, under the names of the attributes.
        where: A condition on the columns; rows for which it does not hold are not in the
            collection.
        name: Unique in the database.
        model: A model object.
        model_id: Or the id or alias of one; wins if both are given.
        records: Which tables.
        store: Store the texts as well.

    Raises:
        TypeError: An argument is not of its kind.
        ValueError: The class has no such column, or a key of several; or the condition is one that
            a trigger cannot evaluate.
    """

    source: type[M]
    text: tuple[QueryableAttribute[Any], ...] | Callable[[M], str | None]
    columns: tuple[QueryableAttribute[Any], ...]
    """All that the text is made of, in order."""
    metadata: tuple[QueryableAttribute[Any], ...]
    where: ColumnElement[bool] | None
    name: str
    model: SupportsEmbedding | None
    model_id: str | None
    records: Records
    store: bool
    key: QueryableAttribute[Any]
    """The primary key."""

    def __init__(
        self,
        source: type[M],
        /,
        *,
        text: Sequence[Any] | Callable[[M], str | None],
        columns: Sequence[Any] | None = None,
        metadata: Sequence[Any] = (),
        where: Any = None,
        name: str,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        records: Records = RECORDS,
        store: bool = False,
    ) -> None:
        mapper = mapper_of(source)
        if model is not None:
            check_model(model)
        of_text = _columns_of_text(mapper, text, columns)
        fields = {
            "source": source,
            "text": text if callable(text) else of_text,
            "columns": of_text,
            "metadata": attributes_of(mapper, metadata, "metadata"),
            "where": None if where is None else checked_condition(mapper, where),
            "name": checked_name(name),
            "model": model,
            "model_id": model_id,
            "records": records,
            "store": store,
            "key": key_of(mapper),
        }
        keys_of(fields["key"])  # type: ignore[arg-type]
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        return f"<ModelCollection {self.name!r} of {self.source.__name__}>"

    def collection(self, database: DatabaseLike) -> Collection[Any]:
        """Return the `Collection`, for everything else. Nothing is read or written.

        Args:
            database: A session, a connection or an engine.
        """
        return Collection(
            self.name,
            database,
            model=self.model,
            model_id=self.model_id,
            key=self.key,
            records=self.records,
        )

    # What the rows say, for those who write

    @property
    def mapper(self) -> Mapper[M]:
        """The mapper of the class."""
        mapper: Mapper[M] = inspect(self.source)
        return mapper

    @property
    def reads_instances(self) -> bool:
        """Whether the text is a function of an instance, and so not to be had in SQL."""
        return callable(self.text)

    def rows(self) -> Select[Any]:
        """Return the SELECT of the rows that are items, in no order.

        It has (key, columns of the text, columns of the metadata); where the text is a function,
        the instance alone, also of rows without a text.
        """
        rows = select(self.source) if self.reads_instances else self._select_columns()
        return rows if (condition := self.condition) is None else rows.where(condition)

    def _select_columns(self) -> Select[Any]:
        return select(self.key, *self.columns, *self.metadata).select_from(self.source)

    @property
    def condition(self) -> ColumnElement[bool] | None:
        """The condition that a row is an item; None if every row is, as far as SQL can tell."""
        conditions = [] if self.where is None else [self.where]
        if not self.reads_instances and not any(map(_is_decorated, self.columns)):
            conditions.append(or_(*(column != "" for column in self.columns)))
        return and_(*conditions) if conditions else None

    @property
    def text_in_sql(self) -> ColumnElement[str] | None:
        """The text of a row in SQL; None where it is a function, or a type changes the values."""
        if self.reads_instances or any(map(_is_decorated, self.columns)):
            return None
        parts = [
            case((column != "", literal(BETWEEN) + column), else_="") for column in self.columns
        ]
        joined: ColumnElement[str] = parts[0]
        for part in parts[1:]:
            joined = joined + part
        return func.substr(joined, len(BETWEEN) + 1, type_=String())

    def item_of(self, row: Row[Any]) -> tuple[Any, str, Metadata | None]:
        """Return the key, the text and the metadata of a row of `rows`; "" if there is no text."""
        if callable(self.text):
            instance = row[0]
            values = tuple(getattr(instance, column.key) for column in self.metadata)
            return getattr(instance, self.key.key), self.text_of(instance), self._named(values)
        key, values = row[0], row[1:]
        texts, metadata = values[: len(self.columns)], values[len(self.columns) :]
        return key, _joined(texts), self._named(metadata)

    def text_of(self, instance: M) -> str:
        """Return the text of an instance; "" if there is none.

        Raises:
            InvalidItemError: The function returned something else than a text.
        """
        if not callable(self.text):
            return _joined([getattr(instance, column.key) for column in self.columns])
        text = self.text(instance)
        if text is not None and not isinstance(text, str):
            key = getattr(instance, self.key.key)
            raise InvalidItemError(
                f"The text of {self.source.__name__} {key!r} must be a str or None, not "
                f"{type(text).__name__}: text= of {self!r}"
            )
        return text or ""

    def _named(self, values: Sequence[Any]) -> Metadata | None:
        if not self.metadata:
            return None
        named = zip(self.metadata, values, strict=True)
        return {column.key: _as_json(value) for column, value in named}


def _columns_of_text(
    mapper: Mapper[Any], text: object, columns: object
) -> tuple[QueryableAttribute[Any], ...]:
    if callable(text) and not hasattr(text, "__clause_element__"):
        if not columns:
            raise TypeError(
                "Name what the function text= reads: columns=[...]. A change of these columns is "
                "what makes the row pending"
            )
        return attributes_of(mapper, columns, "columns")  # type: ignore[arg-type]
    if columns is not None:
        raise TypeError("columns= goes with a function as text=; text=[...] names them itself")
    named = attributes_of(mapper, text, "text")  # type: ignore[arg-type]
    if not named:
        raise ValueError("text must name at least one column")
    for at, column in enumerate(named):
        kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
        if not isinstance(kind, String) or isinstance(kind, Enum | Uuid):
            raise TypeError(
                f"text[{at}]: {mapper.class_.__name__}.{column.key} is no text but "
                f"{type(column.type).__name__}. Give a function of an instance: text=function, "
                "columns=[what it reads]"
            )
    return named


def _is_decorated(column: QueryableAttribute[Any]) -> bool:
    return isinstance(column.type, TypeDecorator)


def _joined(texts: Sequence[str | None]) -> str:
    return BETWEEN.join(text for text in texts if text)


def _as_json(value: object) -> object:
    """Return what a column holds as JSON can hold it."""
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Decimal):
        return float(value)
    return str(value) if isinstance(value, uuid.UUID) else value
