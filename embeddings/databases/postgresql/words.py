"""The text index on PostgreSQL: a column of `tsvector` beside each vector, one GIN for all.

The words are those that `searching.words` makes of a text, not PostgreSQL's own parser, which takes
`shutil.copytree` for the name of a host. A second column has the hash of the content whose words
they are: where another program replaced the row, they are not taken for those of the new content.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Float,
    LargeBinary,
    Select,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR

from ...searching.words import MOST_WORD_BYTES, Term, tokens
from ..quoting import literal as literal_text
from ..quoting import quoted
from . import added
from .conditions import once
from .index import prefix
from .named import DO, creating, deleting_empty
from .names import Names, names_of
from .pending import carry_out
from .types import Values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import FromClause

    from ...tables.indexing import TextIndex
    from ...tables.records import Records
    from ...work.operation import Work

T = TypeVar("T")
WORDS, WORDS_OF, LANGUAGE = "search_words", "search_words_of", "search_language"
"""The columns: of embeddings the words and the hash of their content; of collections."""
LACKS_WORDS = f"({WORDS} IS NULL OR {WORDS_OF} IS DISTINCT FROM content_hash)"
"""The condition, in SQL, that a row has no words of the text that it was made of."""
MOST_TIMES = 4
"""That a word stands in a text, as they are kept: more rank the same, see `_times`."""
MOST_UTF8 = 4
"""Bytes of a character."""
LONG = 2**16
"""Characters of a text, from which its words may be too many."""
MOST_BYTES = 2**19
"""Of the words of one text that are kept; a tsvector holds twice as many with their positions."""
_NUMBER = struct.Struct(">i")


class _Positions(dict[int, str]):
    """The positions of a word, as they are written, by how often it stands in a text."""

    def __missing__(self, count: int) -> str:
        return self[MOST_TIMES]


# A word without positions ranks as one with one.
_POSITIONS = {1: [], **{count: [*range(1, count + 1)] for count in range(2, MOST_TIMES + 1)}}
_AS_TEXT = _Positions(
    (count, ":" + ",".join(map(str, each)) if each else "") for count, each in _POSITIONS.items()
)
_AS_BINARY = _Positions(
    (count, struct.pack(f">xH{len(each)}H", len(each), *each).decode())
    for count, each in _POSITIONS.items()
)
K1, B = 1.2, 0.75  # of BM25, as FTS5 has them
ALL_RANKS = 1.645  # 1 + 1/4 + 1/9 and so on
LEAST_REST = 0.15  # of 1, after four times
PAGE = 500  # rows whose words are made at a time


def index_name(records: Records) -> str:
    """Return the name of the GIN index."""
    return f"{prefix(records)}words"


def install(connection: Connection, records: Records) -> None:
    """Add the columns and the index. What is there is kept."""
    carry_out(connection, records, script)


def missing(connection: Connection, records: Records) -> str | None:
    """Return which columns others have removed, and whether the index, or None."""
    lost = added.lost(connection, records, {WORDS, WORDS_OF, LANGUAGE, index_name(records)})
    return f"for text indexes are missing: {', '.join(lost)}" if lost else None


def script(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL of `install`, for tables in that schema."""
    names = Names(records, schema)
    return [
        f"ALTER TABLE {names.embeddings} ADD COLUMN IF NOT EXISTS {WORDS} tsvector, "
        f"ADD COLUMN IF NOT EXISTS {WORDS_OF} bytea",
        f"ALTER TABLE {names.collections} ADD COLUMN IF NOT EXISTS {LANGUAGE} text",
        # Rows of collections without a text index are not in it.
        f"CREATE INDEX IF NOT EXISTS {quoted(index_name(records))} ON {names.embeddings} "
        f"USING gin ({WORDS}) WHERE {WORDS} IS NOT NULL",
    ]


def script_down(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL that undoes that of `script`. The tables may be gone."""
    names = Names(records, schema)
    return [
        f"DROP INDEX IF EXISTS {names.inside}{quoted(index_name(records))}",
        f"ALTER TABLE IF EXISTS {names.embeddings} DROP COLUMN IF EXISTS {WORDS}, "
        f"DROP COLUMN IF EXISTS {WORDS_OF}",
        f"ALTER TABLE IF EXISTS {names.collections} DROP COLUMN IF EXISTS {LANGUAGE}",
    ]


def uninstall(connection: Connection, records: Records) -> None:
    """Drop the columns and the index, if they are there."""
    carry_out(connection, records, script_down, removes=True)


def language_of(records: Records) -> ColumnElement[str | None]:
    """Return the SQL of the language of the outer query's collection; NULL without the column."""
    return added.setting(records, LANGUAGE)


def set_language(work: Work, language: str | None) -> None:
    """Note that the collection has a text index in a language, or none."""
    table = names_of(work.connection, work.records).collections
    work.connection.execute(
        text(f"UPDATE {table} SET {LANGUAGE} = :language WHERE id = :id"),
        {"language": language, "id": work.row.id},
    )


def create(work: Work, language: str) -> None:
    """Note the language, and put in the words of contents that are stored."""
    set_language(work, language)
    table = names_of(work.connection, work.records).embeddings
    missing = text(
        f"SELECT id, content, content_hash FROM {table} WHERE collection_id = :collection "
        f"AND content IS NOT NULL AND id > :last "
        f"AND {LACKS_WORDS} "
        f"ORDER BY id LIMIT {PAGE}"
    ).columns(content_hash=LargeBinary)
    last = ""
    while True:
        parameters = {"collection": work.row.id, "last": last}
        rows = work.connection.execute(missing, parameters).all()
        _put(work, [tuple(row) for row in rows], language)
        if len(rows) < PAGE:
            return
        last = rows[-1].id


def drop(work: Work) -> None:
    """Take the words of the collection away."""
    set_language(work, None)
    work.connection.execute(
        text(
            f"UPDATE {names_of(work.connection, work.records).embeddings} "
            f"SET {WORDS} = NULL, {WORDS_OF} = NULL "
            f"WHERE collection_id = :collection AND {WORDS} IS NOT NULL"
        ),
        {"collection": work.row.id},
    )


def index_script(given: TextIndex) -> list[str]:
    """Return the SQL that notes the language of a collection, found by its name.

    Words are made by this library alone: it warns where items are there that have none.
    """
    names, name = names_of(None, given.records), literal_text(given.collection)
    language = literal_text(given.language)
    missing = literal_text(
        f"Collection {given.collection!r} does not exist: pass model= to create it"
    )
    other = literal_text(
        f"{given.collection!r} has a text index in another language: drop that first"
    )
    lacking = literal_text(
        f"Items of {given.collection!r} have no words in its text index yet: "
        "create_text_index() puts in those of stored texts; embed the others again"
    )
    return [
        *creating(given, names),
        f"DO {DO} DECLARE of_collection integer; there text; BEGIN "
        f"SELECT id, {LANGUAGE} INTO of_collection, there FROM {names.collections} "
        f"WHERE name = {name} FOR UPDATE; "
        f"IF of_collection IS NULL THEN RAISE EXCEPTION USING MESSAGE = {missing}; END IF; "
        f"IF there <> {language} THEN RAISE EXCEPTION USING MESSAGE = {other}; END IF; "
        f"UPDATE {names.collections} SET {LANGUAGE} = {language} WHERE id = of_collection; "
        f"PERFORM 1 FROM {names.embeddings} WHERE collection_id = of_collection "
        f"AND content_blob IS NULL AND {LACKS_WORDS} LIMIT 1; "
        f"IF FOUND THEN RAISE WARNING USING MESSAGE = {lacking}; END IF; END {DO}",
    ]


def index_script_down(given: TextIndex) -> list[str]:
    """Return the SQL that takes the language and the words of a collection away."""
    names, name = names_of(None, given.records), literal_text(given.collection)
    index = literal_text(f"{prefix(given.records)}%s_hnsw")
    of_empty = deleting_empty(
        names, f"NOT EXISTS (SELECT FROM pg_class WHERE relname = format({index}, of_collection))"
    )
    return [
        f"DO {DO} DECLARE of_collection integer; BEGIN "
        f"SELECT id INTO of_collection FROM {names.collections} WHERE name = {name} FOR UPDATE; "
        f"UPDATE {names.collections} SET {LANGUAGE} = NULL WHERE id = of_collection; "
        f"UPDATE {names.embeddings} SET {WORDS} = NULL, {WORDS_OF} = NULL "
        f"WHERE collection_id = of_collection AND {WORDS} IS NOT NULL; "
        f"{'' if given.model is None else of_empty}END {DO}"
    ]


def columns_of(work: Work) -> tuple[str, ...]:
    """Return the columns that rows are written with."""
    return (WORDS, WORDS_OF) if work.row.language is not None else ()


def values_of(
    work: Work, row: Mapping[str, Any], made: Callable[[str, str], T]
) -> tuple[T | None, bytes | None]:
    """Return the values of the columns for a row that is about to be written.

    Args:
        work: Of a collection with a text index.
        row: As it is written.
        made: `as_tsvector` or `as_binary`.
    """
    content, content_hash = work.texts.get(row["id"], (None, None))
    return None if content is None else made(content, work.row.language or ""), content_hash


def put(work: Work, texts: Mapping[str, tuple[str, bytes]], language: str) -> None:
    """Put in the words of texts whose items are there without words."""
    missing = work.database.without_words(work, [*texts])
    _put(work, [(id, *texts[id]) for id in sorted(missing)], language)


def _put(work: Work, rows: Sequence[tuple[Any, ...]], language: str) -> None:
    """Write the words of (id, text, hash), where the row still has that hash."""
    if not rows:
        return
    statement = text(
        f"UPDATE {names_of(work.connection, work.records).embeddings} e "
        f"SET {WORDS} = CAST(given.words AS tsvector), {WORDS_OF} = given.hash "
        "FROM unnest(CAST(:ids AS text[]), CAST(:words AS text[]), CAST(:hashes AS bytea[])) "
        "AS given (id, words, hash) "
        "WHERE e.collection_id = :collection AND e.id = given.id "
        "AND e.content_hash IS NOT DISTINCT FROM given.hash"
    ).bindparams(
        bindparam("ids", type_=Values()),
        bindparam("words", type_=Values()),
        bindparam("hashes", type_=Values()),
    )
    ids, texts, hashes = zip(*rows, strict=True)
    parameters = {
        "ids": list(ids),
        "words": [as_tsvector(content, language) for content in texts],
        "hashes": list(hashes),
        "collection": work.row.id,
    }
    work.connection.execute(statement, parameters)


def as_tsvector(content: str, language: str) -> str:
    """Return the words of a text, and how often each stands in it, as a tsvector is written.

    That number is the number of positions, which are 1, 2 and so on: where a word stands, no search
    of ours asks.
    """
    # Letters and digits alone: nothing in a word has to be escaped.
    words = _counts(content, language).items()
    return " ".join([f"'{word}'{_AS_TEXT[count]}" for word, count in words])


def as_binary(content: str, language: str) -> bytes:
    """Return the same as PostgreSQL takes it in binary.

    Source: `tsvectorrecv` in PostgreSQL's tsvector.c: the number of words; each as UTF-8 with a
    zero byte, the number of its positions and these, as int32, int16 and int16, big-endian.
    """
    counts = _counts(content, language)
    words = [word + _AS_BINARY[count] for word, count in counts.items()]
    return _NUMBER.pack(len(words)) + "".join(words).encode()


def _counts(content: str, language: str) -> dict[str, int]:
    counts: dict[str, int] = Counter(tokens(content, language))
    if len(content) <= MOST_WORD_BYTES and content.isascii():
        return counts
    longest = max(map(len, counts), default=0)
    if len(content) <= LONG and longest * MOST_UTF8 <= MOST_WORD_BYTES:
        return counts
    kept: dict[str, int] = {}
    left = MOST_BYTES
    for word, count in counts.items():
        size = len(word.encode())
        if size <= MOST_WORD_BYTES:
            left -= size + 2 * MOST_TIMES + 8
            if left < 0:
                break
            kept[word] = count
    return kept


def lacks_words() -> ColumnElement[bool]:
    """Return the condition of `Database.lacks_words`."""
    return literal_column(LACKS_WORDS, Boolean)


def queries(terms: list[Term]) -> tuple[ColumnElement[Any], ...]:
    """Return the queries of text search for some terms: for any of them, then for each."""
    if not terms:
        return ()
    each = [_matching(term) for term in terms]
    return tuple(cast(literal(given, Text), TSQUERY) for given in (" | ".join(each), *each))


def ranked(
    records: Records,
    ways: Sequence[Sequence[ColumnElement[bool]]],
    sought: Sequence[ColumnElement[Any]],
    further: ColumnElement[Any],
    most: int,
) -> Select[Any]:
    """Return the SELECT of `id` and `rank` of the rows with one of the terms, best first.

    A row's score is that of BM25, as on SQLite: the sum over the terms of how rare the term is,
    here among the rows that were found, times how often it stands in the text, for its length.
    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.

    Args:
        records: The mapped classes.
        ways: The conditions about rows of embeddings, of one SELECT or several.
        sought: What is looked for, of `queries`.
        further: The SQL of a condition about rows that were found, which costs more.
        most: How many.
    """
    columns = records.embeddings.c
    words: ColumnElement[Any] = literal_column(f"{WORDS}", TSVECTOR)
    wanted, *each = sought
    of_this_content = literal_column(WORDS_OF, LargeBinary) == columns.content_hash
    hit = select(
        columns.id,
        words.label("words"),
        func.length(words).label("length"),
        *(words.op("@@")(term).label(f"has_{at}") for at, term in enumerate(each)),
    ).where(words.op("@@")(wanted), of_this_content, further)
    hits = once(union_all(*(hit.where(*conditions) for conditions in ways)))
    counts = once(
        select(
            func.count().label("hits"),
            func.avg(hits.c.length).label("length"),
            *(
                func.count().filter(hits.c[f"has_{at}"]).label(f"with_{at}")
                for at in range(len(each))
            ),
        ).select_from(hits)
    )
    number = select(counts.c.hits).scalar_subquery()
    mean = cast(select(counts.c.length).scalar_subquery(), Float)
    length = cast(hits.c.length, Float) / func.nullif(mean, literal_column("0"))
    half: ColumnElement[Any] = (
        literal_column(str(K1 * (1 - B))) + literal_column(str(K1 * B)) * length
    )
    score: ColumnElement[Any] = literal_column("0.0", Float)
    for at, term in enumerate(each):
        rare = func.ln(
            1
            + number / cast(func.nullif(select(counts.c[f"with_{at}"]).scalar_subquery(), 0), Float)
        )
        # BM25's often / (often + half), in which the rank, the costly part, stands once.
        part = rare * (literal_column("1") - half / (_times(hits.c.words, term) + half))
        score = score + case((hits.c[f"has_{at}"], part), else_=literal_column("0.0", Float))
    order = (score.desc(), hits.c.id)
    return (
        select(
            hits.c.id,
            hits.c.id.label("row_id"),
            func.row_number().over(order_by=order).label("rank"),
        )
        .order_by(literal_column("rank"))
        .limit(literal_column(str(most)))
    )


def _times(words: ColumnElement[Any], term: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the SQL of about how often one term stands in a text.

    PostgreSQL tells it as a rank: of n times 0.1 * (1 + 1/4 + ... + 1/n^2) / 1.645, whose sum is
    about 1.645 - 1 / (n + 0.5). The ranks of words with the same beginning add up; four times and
    more are the same here.
    Source: `calc_rank_or` in PostgreSQL's tsrank.c
    """
    rank = cast(func.ts_rank(words, term), Float) * literal_column("10")
    rest = func.greatest(literal_column("1") - rank, literal_column(str(LEAST_REST)))
    return literal_column("1") / (literal_column(str(ALL_RANKS)) * rest) - literal_column("0.5")


def _matching(term: Term) -> str:
    return f"'{term.text}':*" if term.is_beginning else f"'{term.text}'"


def ranked_by_host(
    records: Records,
    conditions: Sequence[ColumnElement[bool]],
    key: ColumnElement[str],
    ranking: FromClause,
    further: ColumnElement[Any],
    most: int,
    *,
    compared: tuple[ColumnElement[str], ColumnElement[Any]],
) -> Select[Any]:
    """Return the SELECT of `id`, `row_id` and `rank` of the rows of a host's keys, in its order.

    Args:
        records: The mapped classes.
        conditions: About rows of embeddings.
        key: The stored ids of the host's keys.
        ranking: The host's SELECT.
        further: The SQL of a condition about rows that were found.
        most: How many.
        compared: The SQL of what is compared with the keys, the id of an item, and by which the
            first row of each item is chosen.
    """
    id, order = compared
    columns = records.embeddings.c
    keys = once(
        select(key.label("key"), func.row_number().over().label("place")).select_from(ranking)
    )
    by_place = (keys.c.place, order)
    row = (
        select(
            id.label("id"),
            columns.id.label("row_id"),
            keys.c.place,
            func.row_number().over(partition_by=id, order_by=by_place).label("of_item"),
        )
        .select_from(records.embeddings)
        .join(keys, keys.c.key == id)
        .where(*conditions, further)
        .subquery()
        .c
    )
    return (
        select(row.id, row.row_id, func.row_number().over(order_by=row.place).label("rank"))
        .where(row.of_item == literal_column("1"))
        .order_by(row.place)
        .limit(literal_column(str(most)))
    )
