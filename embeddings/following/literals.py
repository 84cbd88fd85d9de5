"""One table that a collection follows, as a revision has it: names and SQL, nothing mapped."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..tables.custom import named
from ..tables.records import RECORDS

if TYPE_CHECKING:
    from ..tables.records import Records

FOLLOWS = "embeddings_follow_"
"""What the names of all triggers and functions that follow a table begin with."""
MAX_SHOWN = 16  # characters of a collection's name in that of a trigger, which has up to 63 bytes


@dataclass(frozen=True)
class Follow:
    """One table that a collection follows. A database makes triggers of it: `follow`.

    Attributes:
        table: The name of the table.
        key: The column of its primary key.
        columns: All that text, metadata and condition read.
        collection: The name of the collection.
        where: SQL over `columns` alone, by their names: the rows that are in the collection.
        schema: Of the table.
        embeddings: The full name of the table of embeddings, beside which its changes are noted.
        unique: Columns that are unique together, where the table cannot be asked for them: in a
            script for SQLite, whose REPLACE removes rows without a trigger.
    """

    table: str
    key: str
    columns: tuple[str, ...]
    collection: str
    where: str | None = None
    schema: str | None = None
    embeddings: str = RECORDS.embeddings.fullname
    unique: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("table", "key", "collection"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise TypeError(f"{name} must be a name, not {value!r}")
        if isinstance(self.columns, str) or not self.columns:
            raise TypeError(f"columns must be the names of columns, not {self.columns!r}")
        if isinstance(self.unique, str) or any(isinstance(each, str) for each in self.unique):
            raise TypeError(
                f"unique must be lists of columns that are unique together, not {self.unique!r}"
            )
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "unique", tuple(map(tuple, self.unique)))

    @property
    def records(self) -> Records:
        """The records beside which changes are noted."""
        return named(self.embeddings)

    @property
    def stem(self) -> str:
        """What the names of its triggers begin with."""
        return f"{stem_of(self.collection, self.embeddings)}{_digest(self.schema, self.table)}"

    @property
    def read(self) -> tuple[str, ...]:
        """The columns whose values its triggers compare."""
        return tuple(dict.fromkeys((self.key, *self.columns)))

    @property
    def values(self) -> dict[str, Any]:
        """What a revision names, without what has its default."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @property
    def condition_columns(self) -> tuple[str, ...]:
        """The columns that the condition may read: those whose names are in it."""
        where = (self.where or "").lower()
        named = (each for each in self.columns if each.lower() in where or '"' in each)
        return tuple(named) if self.where is not None else ()

    def to_json(self) -> str:
        """Return it as it is kept with its triggers: without what the table can be asked for."""
        text = json.dumps({**self.values, "unique": ()})
        return text.replace("*", "\\u002a")  # in a comment, within which another one can begin

    @classmethod
    def from_json(cls, text: str) -> Follow | None:
        """Return what was kept; None if it is something else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def stem_of(collection: str, embeddings: str) -> str:
    """Return what the names of the triggers of a collection begin with, whatever their table."""
    shown = re.sub(r"[^a-z0-9]+", "_", collection.lower())[:MAX_SHOWN].strip("_")
    return f"{FOLLOWS}{shown}_{_digest(collection, embeddings)}_"


def _digest(*names: str | None) -> str:
    return hashlib.md5(repr(names).encode(), usedforsecurity=False).hexdigest()[:6]
