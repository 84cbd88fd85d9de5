"""The text index of a collection on SQLite: a table of FTS5, and triggers that keep it right.

A table beside it gives each item a number that VACUUM does not change. When a row is deleted or
replaced, by whatever program, a trigger takes the number from the item, which is not found by its
words any more. They are removed with the next write of this library: a trigger that writes to FTS5
would have it write everything to the file at each row, and needs FTS5 in all programs.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    select,
)

from ...models.base import batches
from ...searching.words import tokens
from ..quoting import quoted
from .catalog import objects_of, told_by_name
from .changelog import schema_of, within
from .rows import as_json
from .transactions import sqlite_transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from ...searching.query import Query
    from ...searching.words import Term
    from ...tables.records import Records
    from ...work.operation import Work

PAGE = 500  # rows whose words are made at a time
TRIGGERS = ("insert", "update", "delete")
KEEPS_NO_TEXT = sqlite3.sqlite_version_info >= (3, 43)
"""Whether FTS5 can forget the words of an item without holding its text."""


def prefix(records: Records) -> str:
    """Return what the names of all that belongs to text indexes begin with."""
    return f"{records.embeddings.name}_words_"


def is_table(name: str, records: Records) -> bool:
    """Return whether a table is one of a text index."""
    return re.fullmatch(re.escape(prefix(records)) + r"\d+(_[a-z_]+)?", name) is not None


def language_of(records: Records) -> ColumnElement[str | None]:
    """Return the SQL of the language of the text index of the collection of the outer query."""
    objects = objects_of(records, "text_index")
    start = func.substr(objects.c.sql, literal_column("1"), literal_column("14"))
    is_virtual = start == literal_column("'CREATE VIRTUAL'")
    return told_by_name(records, objects, prefix(records), records.collections.c.id, is_virtual)


class _Names:
    """The names of a collection's text index, as SQL."""

    def __init__(self, records: Records, collection_id: int, schema: str | None) -> None:
        self.base = f"{prefix(records)}{collection_id}"
        self.inside = within(schema)
        self.numbers = f'"{self.base}"'
        self.embeddings = quoted(records.embeddings.name)
        self.collection_id = collection_id

    def words(self, language: str) -> str:
        return f'"{self.base}_{language}"'

    def trigger(self, name: str) -> str:
        return f'{self.inside}"{self.base}_{name}"'


def _names(work: Work) -> _Names:
    return _Names(work.records, work.row.id, schema_of(work.connection, work.records))


def create(work: Work, language: str) -> None:
    """Create the index, or its triggers anew, and put in the words of stored contents."""
    names = _names(work)
    # By its default a letter with two accents keeps them.
    tokenizer = "ascii" if language == "cjk" else "unicode61 remove_diacritics 2"
    holds = ", content='', contentless_delete=1" if KEEPS_NO_TEXT else ""
    words, numbers, inside = names.words(language), names.numbers, names.inside
    of_collection = f"collection_id = {names.collection_id}"
    rows = f"SELECT id FROM {inside}{names.embeddings} WHERE {of_collection} AND id IS NOT NULL"
    known = f"SELECT id FROM {inside}{numbers} WHERE id IS NOT NULL"
    with sqlite_transaction(work.connection):
        for statement in (
            f"CREATE TABLE IF NOT EXISTS {inside}{numbers} "
            "(number INTEGER PRIMARY KEY, id TEXT UNIQUE)",
            f"CREATE VIRTUAL TABLE IF NOT EXISTS {inside}{words} "
            f"USING fts5(words, tokenize='{tokenizer}'{holds})",
            *_triggers(names),
            # Of rows that went while there were no triggers.
            f"UPDATE {inside}{numbers} SET id = NULL WHERE id IS NOT NULL AND id NOT IN ({rows})",
            *_cleaning(names, language),
            f"INSERT INTO {inside}{numbers} (id) {rows} AND typeof(content) = 'text' "
            f"AND id NOT IN ({known})",
        ):
            work.connection.exec_driver_sql(statement)
        stored = (
            f"FROM {inside}{numbers} n JOIN {inside}{names.embeddings} e "
            f"ON e.{of_collection} AND e.id = n.id WHERE n.number"
        )
        lacking = f"{stored} NOT IN (SELECT rowid FROM {inside}{words})"
        into = f"INSERT INTO {inside}{words} (rowid, words)"
        if language != "cjk":
            work.connection.exec_driver_sql(f"{into} SELECT n.number, e.content {lacking}")
            return
        given = work.connection.exec_driver_sql(f"SELECT n.number {lacking}").scalars().all()
        page = f"SELECT n.number, e.content {stored} IN (SELECT value FROM json_each(?))"
        for some in batches(given, PAGE):
            found = work.connection.exec_driver_sql(page, (as_json(some),)).all()
            made = [(number, _indexed(content, language)) for number, content in found]
            work.connection.exec_driver_sql(f"{into} VALUES (?, ?)", made)


def _indexed(content: str, language: str) -> str:
    """Return a text as FTS5 is to read it: its own tokenizers do not find two letters."""
    return " ".join(tokens(content, language)) if language == "cjk" else content


def _cleaning(names: _Names, language: str) -> list[str]:
    """Return the SQL that removes the words of what is gone."""
    gone = f"FROM {names.inside}{names.numbers} WHERE id IS NULL"
    words = f"{names.inside}{names.words(language)}"
    return [f"DELETE FROM {words} WHERE rowid IN (SELECT number {gone})", f"DELETE {gone}"]


def clean(work: Work, language: str) -> None:
    """Remove the words of rows that are gone or replaced."""
    for statement in _cleaning(_names(work), language):
        work.connection.exec_driver_sql(statement)


def _triggers(names: _Names) -> list[str]:
    numbers, own = names.numbers, names.collection_id
    old, new = f"OLD.collection_id = {own}", f"NEW.collection_id = {own}"
    is_other = (
        "OLD.id IS NOT NEW.id OR OLD.collection_id IS NOT NEW.collection_id "
        "OR OLD.content_hash IS NOT NEW.content_hash "
        "OR (OLD.content IS NOT NULL AND OLD.content IS NOT NEW.content)"
    )

    def forget(row: str) -> str:
        return f"UPDATE {numbers} SET id = NULL WHERE id = {row}.id"

    return [
        *(f"DROP TRIGGER IF EXISTS {names.trigger(name)}" for name in TRIGGERS),
        f"CREATE TRIGGER {names.trigger('insert')} AFTER INSERT ON {names.embeddings} "
        f"WHEN {new} BEGIN {forget('NEW')}; END",
        f"CREATE TRIGGER {names.trigger('update')} "
        f"AFTER UPDATE OF collection_id, id, content, content_hash ON {names.embeddings} "
        f"WHEN ({old} OR {new}) AND ({is_other}) BEGIN "
        f"{forget('OLD')} AND {old}; {forget('NEW')} AND {new}; END",
        f"CREATE TRIGGER {names.trigger('delete')} AFTER DELETE ON {names.embeddings} "
        f"WHEN {old} BEGIN {forget('OLD')}; END",
    ]


def drop(work: Work, language: str) -> None:
    """Drop the index."""
    names = _names(work)
    with sqlite_transaction(work.connection):
        for statement in (
            *(f"DROP TRIGGER IF EXISTS {names.trigger(name)}" for name in TRIGGERS),
            f"DROP TABLE IF EXISTS {names.inside}{names.words(language)}",
            f"DROP TABLE IF EXISTS {names.inside}{names.numbers}",
        ):
            work.connection.exec_driver_sql(statement)


def uninstall(connection: Connection, records: Records) -> None:
    """Drop all text indexes of the tables."""
    inside = within(schema_of(connection, records))
    found = connection.exec_driver_sql(
        f"SELECT type, name, sql FROM {inside}sqlite_master WHERE type IN ('table', 'trigger') "
        "AND substr(name, 1, ?) = ?",
        (len(prefix(records)), prefix(records)),
    ).all()
    # The tables that FTS5 made itself go with the virtual ones.
    virtual = [name for _, name, sql in found if (sql or "").startswith("CREATE VIRTUAL")]
    for kind, name, _ in found:
        of_another = any(name.startswith(f"{other}_") for other in virtual)
        if not of_another and (kind == "trigger" or is_table(name, records)):
            connection.exec_driver_sql(f"DROP {kind.upper()} IF EXISTS {inside}{quoted(name)}")


def put(work: Work, texts: Mapping[str, tuple[str, bytes]], language: str) -> None:
    """Put in the words of texts whose items are there without words."""
    clean(work, language)
    names, driver = _names(work), work.connection
    numbers, words = (f"{names.inside}{name}" for name in (names.numbers, names.words(language)))
    last = driver.exec_driver_sql(f"SELECT max(number) FROM {numbers}").scalar_one() or 0
    # A new number is the largest and one: https://sqlite.org/autoinc.html
    driver.exec_driver_sql(
        f"INSERT OR IGNORE INTO {numbers} (id) SELECT value FROM json_each(?)",
        (as_json(sorted(texts)),),
    )
    new = driver.exec_driver_sql(f"SELECT number, id FROM {numbers} WHERE number > ?", (last,))
    given = [(number, _indexed(texts[id][0], language)) for number, id in new]
    if given:
        driver.exec_driver_sql(f"INSERT INTO {words} (rowid, words) VALUES (?, ?)", given)


def lacks_words(work: Work) -> ColumnElement[bool]:
    """Return the condition of `Database.lacks_words`."""
    names = _names(work)
    return literal_column(
        f"id NOT IN (SELECT id FROM {names.inside}{names.numbers} WHERE id IS NOT NULL)", Boolean
    )


def ids(work: Work, terms: list[Term], query: Query, most: int | None) -> list[str]:
    """Return the ids of `Database.ids_with_words`."""
    if not terms:
        return []
    words, numbers = _tables(work.records, work.row.id, work.row.language or "")
    matches = literal_column(quoted(words.name)).op("MATCH")(
        bindparam(None, " OR ".join(map(_matching, terms)), Text)
    )
    statement = (
        select(numbers.c.id)
        .select_from(words.join(numbers, numbers.c.number == words.c.rowid))
        .where(matches, numbers.c.id.is_not(None))
        .order_by(words.c.rank, numbers.c.id)
        .limit(-1 if most is None else most)
    )
    if query.has_conditions:
        columns = work.records.embeddings.c
        kept = select(columns.id).where(
            columns.collection_id == work.row.id,
            columns.id == numbers.c.id,
            *query.conditions(work),
        )
        statement = statement.where(kept.correlate(numbers).exists())
    return list(work.run(statement).scalars())


@functools.lru_cache(maxsize=1024)
def _tables(records: Records, collection_id: int, language: str) -> tuple[Table, Table]:
    """Return those of the words and of the items' numbers: SQLAlchemy compiles for each object."""
    base = f"{prefix(records)}{collection_id}"
    metadata, schema = MetaData(), records.embeddings.schema
    rowid, number, id = Column("rowid", Integer), Column("number", Integer), Column("id", Text)
    return (
        Table(f"{base}_{language}", metadata, rowid, Column("rank"), schema=schema),
        Table(base, metadata, number, id, schema=schema),
    )


def _matching(term: Term) -> str:
    return f"{quoted(term.text)}*" if term.is_beginning else quoted(term.text)
