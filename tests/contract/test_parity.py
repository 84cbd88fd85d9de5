"""The same rows in SQLite and in PostgreSQL: every search and every read gives the same."""

from __future__ import annotations

import itertools
import math
import random
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    create_engine,
    insert,
    select,
)
from sqlalchemy.pool import StaticPool

import embeddings
from embeddings import Collection, EmbeddingModel, EmbeddingsError, Entry, InvalidVectorError
from tests.reaching import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

TOLERANCE = 1e-5
"""By how much scores may differ: pgvector computes in float32."""
ALL = 1_000_000


class PlainModel(EmbeddingModel):
    """A model whose texts are their vectors, written out."""

    model_id = "plain"

    def embed_batch(self, items: Sequence[str | bytes]) -> list[list[float]]:
        """Return the numbers in each text."""
        return [[float(word) for word in item.split()] for item in items]


@dataclass
class Pair:
    """Two collections of the same name, keys and rows."""

    sqlite: Collection[Any]
    postgresql: Collection[Any]

    def store(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write the rows into both."""
        rows = list(rows)
        self.sqlite.store_vectors(rows)
        self.postgresql.store_vectors(rows)

    def compare(
        self,
        search: Callable[..., list[Entry[Any]]],
        number: int = 10,
        offset: int = 0,
        **filters: Any,
    ) -> list[Any]:
        """Check that a search finds the same in both, and return the ids that it found.

        Where scores are closer together than float32 tells apart, either order is right.
        """
        ranking = search(self.sqlite, number=ALL, **filters)
        expected = search(self.sqlite, number=number, offset=offset, **filters)
        found = search(self.postgresql, number=number, offset=offset, **filters)
        exactly = {entry.id: entry for entry in ranking}
        ids = [entry.id for entry in found]
        scores = np.array([entry.score for entry in found])
        assert len(found) == len(expected)
        assert np.abs(scores - [entry.score for entry in expected]).max(initial=0) <= TOLERANCE
        assert np.abs(scores - [exactly[id].score for id in ids]).max(initial=0) <= TOLERANCE
        assert len({*ids}) == len(ids)
        assert {type(id) for id in ids} <= {type(entry.id) for entry in ranking}
        assert [(entry.content, entry.metadata) for entry in found] == [
            (exactly[id].content, exactly[id].metadata) for id in ids
        ]
        assert found == sorted(found, key=lambda entry: (-entry.score, str(stored(entry.id))))
        if len({entry.score for entry in ranking}) == 1:  # a tie of all is one in both
            assert ids == [entry.id for entry in expected]
        return ids


def stored(id: Any) -> str:
    """Return the text under which an id is stored, by which ties are ordered."""
    return id.hex if isinstance(id, uuid.UUID) else str(id)


@pytest.fixture
def sqlite() -> Iterator[Engine]:
    """A SQLite database in memory, with the tables."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    embeddings.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def pair_of(sqlite: Engine, postgresql_engine: Engine) -> Callable[..., Pair]:
    """Open a pair of collections."""

    def open_pair(name: str = "docs", **options: Any) -> Pair:
        options = {"model": PlainModel()} | options
        return Pair(
            Collection(name, sqlite, **options), Collection(name, postgresql_engine, **options)
        )

    return open_pair


@pytest.fixture
def pair(pair_of: Callable[..., Pair]) -> Pair:
    """A pair of empty collections."""
    return pair_of()


def by_vector(vector: Any) -> Callable[..., list[Entry[Any]]]:
    """Return the search for a vector."""
    return lambda docs, **options: docs.similar_by_vector(vector, **options)


def by_text(vector: Any) -> Callable[..., list[Entry[Any]]]:
    """Return the search for a text that is embedded as the vector."""
    text = " ".join(repr(float(value)) for value in vector)
    return lambda docs, **options: docs.similar(text, **options)


def by_id(id: Any) -> Callable[..., list[Entry[Any]]]:
    """Return the search from an item."""
    return lambda docs, **options: docs.similar_by_id(id, **options)


def gaps(scores: Iterable[float]) -> list[float]:
    """Return numbers that no score is near to, for min_score."""
    ordered = sorted(scores)
    return [
        (low + high) / 2 for low, high in itertools.pairwise(ordered) if high - low > 4 * TOLERANCE
    ]


# Vectors


@pytest.mark.parametrize("size", [1, 3, 384])
def test_random_vectors_are_ranked_alike(pair, size):
    """Numbers, offsets and least scores cut the same ranking, with copies and zeros in it."""
    rng = np.random.default_rng(size)
    vectors = [*rng.standard_normal((40, size)).astype(np.float32)]
    vectors += [vectors[0], vectors[1] * 2, -vectors[2], np.zeros(size, np.float32)] * 2
    pair.store(
        (
            f"id {n * 37 % 101:03}",
            vector,
            {"n": n} if n % 3 else None,
            f"text {n}" if n % 2 else None,
        )
        for n, vector in enumerate(vectors)
    )
    ids = pair.sqlite.ids()
    assert pair.postgresql.ids() == ids
    searches = [
        by_vector(rng.standard_normal(size)),
        by_vector(vectors[0] * 1000),
        by_text(vectors[5]),
        by_id("id 000"),
        by_id(ids[-1]),
        by_vector(np.zeros(size)),
        by_vector(rng.standard_normal(size).astype(np.float16)),
        by_vector(rng.integers(-9, 9, size).tolist()),
    ]
    for search in searches:
        assert len(pair.compare(search, ALL)) >= len(ids) - 1
        for number, offset in ((10, 0), (5, 7), (10, len(ids) - 3)):
            pair.compare(search, number, offset)
    for number, offset in ((1, 0), (0, 3), (3, 1000), (10**6, 10**6)):
        pair.compare(searches[0], number, offset)
    for search in searches[:2]:
        scores = [entry.score for entry in search(pair.sqlite, number=ALL)]
        for least in [*gaps(scores)[::9], -1.5]:
            for number, offset in ((ALL, 0), (3, 2)):
                pair.compare(search, number, offset, min_score=least)


@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    vectors=st.integers(1, 5).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=size, max_size=size),
            min_size=1,
            max_size=12,
        )
    ),
)
def test_any_vectors_are_ranked_alike(pair_of, data, vectors):
    """Of any vectors, any one of them as the query, and any part of the ranking."""
    pair = pair_of("any")
    pair.store((f"{n:02}", vector) for n, vector in enumerate(vectors))
    try:
        query = data.draw(st.sampled_from(vectors))
        number, offset = data.draw(st.integers(0, 15)), data.draw(st.integers(0, 15))
        pair.compare(by_vector(query), number, offset)
        pair.compare(by_id("00"), number, offset)
    finally:
        pair.sqlite.delete()
        pair.postgresql.delete()


@pytest.mark.parametrize("what", ["rows", "query", "id"])
def test_magnitudes_do_not_matter(pair, what, subtests):
    """Huge and tiny vectors are near to others by their direction alone."""
    for scale in [1e-44, 1e-38, 1e-30, 1e-20, 1e-10, 1e10, 1e18, 1e25, 1e37]:
        with subtests.test(ascii(scale)[:60]):
            directions = np.array([[2, 1, 0], [1, 2, 0], [-1, 0, 1], [0, 0, 3], [-2, -1, 0]])
            rows = directions * scale if what == "rows" else directions
            pair.store([*((str(n), vector) for n, vector in enumerate(rows)), ("zero", [0, 0, 0])])
            if what == "id":
                pair.store([("scaled", directions[1] * scale)])
                pair.compare(by_id("scaled"))
            else:
                pair.compare(by_vector(directions[0] * (scale if what == "query" else 1)))


def test_a_zero_vector_is_alike(pair):
    """It scores 0.0 on both, as a row and as a query's vector, and stands by its id among such."""
    pair.store([("d", [0, 0]), ("c", [0, 1]), ("a", [0, 0]), ("b", [-1, 0]), ("e", [1, 0])])
    for docs in (pair.sqlite, pair.postgresql):
        assert [(entry.id, entry.score) for entry in docs.similar_by_vector([1, 0])] == [
            ("e", 1.0), ("a", 0.0), ("c", 0.0), ("d", 0.0), ("b", -1.0)
        ]  # fmt: skip
        assert [(entry.id, entry.score) for entry in docs.similar_by_vector([0, 0])] == [
            (id, 0.0) for id in "abcde"
        ]
        assert [(entry.id, entry.score) for entry in docs.similar_by_id("e", min_score=0)] == [
            (id, 0.0) for id in "acd"
        ]
        assert docs.similar_by_id("d") == []


def test_collections_of_several_dimensions_are_in_one_table(pair_of):
    """Each is searched by itself, and refuses what is of another's dimensions."""
    rng = np.random.default_rng(4)
    sizes = (1, 2, 3, 300, 1536, 2001, 4096)
    pairs = {size: pair_of(f"of {size}") for size in sizes}
    for size, pair in pairs.items():
        pair.store((n, rng.standard_normal(size)) for n in range(12))
    for size, pair in pairs.items():
        query = rng.standard_normal(size)
        assert len(pair.compare(by_vector(query), ALL)) == 12
        pair.compare(by_id(3), 4, 1)
        for docs in (pair.sqlite, pair.postgresql):
            with pytest.raises(InvalidVectorError, match=rf"{size + 1} dimensions.* {size}$"):
                docs.similar_by_vector([*query, 1.0])
            with pytest.raises(InvalidVectorError):
                docs.store_vectors([("other", [*query, 1.0])])


# Filters

KEYS = ["a", "A", "a.b", "$.a", "$", "", " ", 'quo"te', "it's", "[0]", "a\\b", "naïve", "e\u0301",
        "日本", "😀", "%", "_", "?", ":a", "%(a)s", "new\nline", "\u2028", "\x7f"]  # fmt: skip


def escaped(name: str) -> str:
    """Return a name as a filter has it, in which dots, dollars and backslashes mean themselves."""
    return re.sub(r"([\\.$])", r"\\\1", name)


VALUES: list[Any] = [
    0, 1, -1, 7, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0.0, 1.0, 1.5, -0.5, 0.1, 0.1 + 0.2,
    0.3, 1e16, 1e22, 1e23, 1e300, 1.7976931348623157e308, 5e-324, 2.0**53, 1e-7, True, False, None,
    "", "a", "A", "1", "1.0", "0", "true", "null", "é", "e\u0301", "日本 😀", 'quo"te', "it's",
    "back\\slash", "%", "_", "a%", "\U0010ffff", "new\nline", "\u2028", "\x01", "{}", "[1]",
]  # fmt: skip


def test_where_finds_the_same_values(pair):
    """Strings, integers, floats, bools and None are equal to the same on both."""
    pair.store((n, [1, 0], {"key": value, "n": n}) for n, value in enumerate(VALUES))
    pair.store([("nested", [1, 0], {"key": {"key": 1}}), ("list", [1, 0], {"key": [1, "a", None]})])
    pair.store([("empty", [1, 0], {}), ("none", [1, 0])])
    for n, value in enumerate(VALUES):
        assert str(n) in pair.compare(by_vector([1, 0]), ALL, where={"key": value}), value
        pair.compare(by_vector([1, 0]), ALL, where={"missing": value})


def test_where_finds_the_same_keys(pair):
    """Dots, quotes, wildcards and letters of any alphabet are parts of a key's name."""
    pair.store((n, [1, 0], {key: 1, "n": key}) for n, key in enumerate(KEYS))
    for n, key in enumerate(KEYS):
        assert pair.compare(by_vector([1, 0]), where={escaped(key): 1}) == [str(n)]
        assert pair.compare(by_vector([1, 0]), where={escaped(key): 1, "n": key}) == [str(n)]
        assert pair.compare(by_vector([1, 0]), where={escaped(key): 1, "n": key + "x"}) == []


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1.0, 0.0, 1e16])
    | st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=5)
)
NAMES = st.sampled_from(KEYS) | st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=5
)


@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many=st.lists(st.dictionaries(NAMES, SCALARS, max_size=4), min_size=1, max_size=8))
def test_where_finds_what_is_stored_whatever_it_is(pair, many):
    """Any metadata of scalars is found by itself, and by each part of it."""
    pair.store((n, [1, n], metadata) for n, metadata in enumerate(many))
    pair.sqlite.delete_items([str(n) for n in range(len(many), 8)])
    pair.postgresql.delete_items([str(n) for n in range(len(many), 8)])
    whole = {escaped(key): value for key, value in many[0].items()}
    assert "0" in pair.compare(by_vector([1, 0]), where=whole)
    for key, value in many[-1].items():
        assert str(len(many) - 1) in pair.compare(by_vector([1, 0]), where={escaped(key): value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_number_that_json_does_not_have_is_treated_alike(pair, value):
    """Both refuse it with an error of the library, or both find nothing."""
    pair.store([("a", [1, 0], {"n": 1}), ("b", [1, 0], {"n": None}), ("c", [1, 0], {"n": "NaN"})])

    def outcome(docs: Collection[Any]) -> Any:
        try:
            return docs.similar_by_vector([1, 0], where={"n": value})
        except EmbeddingsError as error:
            return type(error)

    assert outcome(pair.postgresql) == outcome(pair.sqlite)


IDS = [
    "a", "a%", "a%b", "a_", "a_b", "ab", "aB", "A", "AB", "Ab", "a\\", "a\\%", "a'b", 'a"b', "a b",
    " a", "%", "_", "\\", "é", "éa", "É", "e\u0301", "ß", "SS", "ss", "İ", "\u0131", "i", "I",
    "日本", "日", "😀", "😀a",
    "\ud7ff", "\ue000", "\uffff", "\U0010ffff", "\U0010ffffa", "z", "Z", "-1",
    "1", "10", "2", "\x01", "\x7f", "a\n", "[a]", "a*", "?", ":a", "%s",
]  # fmt: skip


def test_a_prefix_is_the_same(pair):
    """LIKE's wildcards, accents and case mean themselves, at every place of a prefix."""
    pair.store((id, [1, n % 5]) for n, id in enumerate(IDS))
    assert pair.postgresql.ids() == pair.sqlite.ids() == sorted(IDS)
    prefixes = {id[:length] for id in IDS for length in (1, 2)}
    for prefix in sorted(prefixes | {"a%_", "%%", "b", "\U0010fffe", "\ud7fe", "*", "a\\_"}):
        found = pair.compare(by_vector([1, 0]), ALL, prefix=prefix)
        assert {*found} == {id for id in IDS if id.startswith(prefix)}


HOST_KEYS: dict[str, tuple[Any, list[Any]]] = {
    "int": (BigInteger(), [0, -1, 1, 10, 2, 99, 2**31, -(2**63), 2**63 - 1, 2**53 + 1]),
    "small int": (Integer(), [0, -1, 1, 10, 2, 99, 2**31 - 1, -(2**31)]),
    "uuid": (Uuid(), [uuid.UUID(int=n**37 % 2**128) for n in range(12)]),
    "str": (String(200), ["a", "A", "a%", "é", "日本", "it's", 'a"b', "1", "\U0010ffff", "a\\"]),
}


@pytest.mark.parametrize("kind", HOST_KEYS)
def test_among_chooses_the_same(sqlite, postgresql_engine, pair_of, kind):
    """Lists of keys, and SELECTs of the host's own, in each type of keys."""
    sql_type, keys = HOST_KEYS[kind]
    host = Table(
        "parity_articles",
        MetaData(),
        Column("id", sql_type, primary_key=True, autoincrement=False),
        Column("n", Integer),
    )
    pair = pair_of(key=host.c.id)
    rng = np.random.default_rng(1)
    pair.store((key, rng.standard_normal(3)) for key in keys)
    for engine in (sqlite, postgresql_engine):
        with engine.begin() as connection:
            host.create(connection)
            connection.execute(insert(host), [{"id": key, "n": n} for n, key in enumerate(keys)])
    try:
        chosen = keys[1::2]
        amongs: list[Any] = [
            chosen,
            [],
            select(host.c.id).where(host.c.n % 2 == 1),
            select(host.c.id).where(host.c.id.in_(chosen)),
            select(host.c.id).where(host.c.n < 0),
            select(host.c.id).order_by(host.c.n).limit(3),
        ]
        sizes = [len(chosen), 0, len(chosen), len(chosen), 0, 3]
        for among, size in zip(amongs, sizes, strict=True):
            found = pair.compare(by_vector([1, 2, 3]), ALL, among=among)
            assert (len(found), {type(key) for key in found}) == (
                size,
                {type(keys[0])} if size else set(),
            )
            pair.compare(by_id(keys[1]), 2, 1, among=among)
        for docs, engine in ((pair.sqlite, sqlite), (pair.postgresql, postgresql_engine)):
            matches = docs.matches_by_vector([1, 2, 3], ALL, among=amongs[2])
            joined = select(host.c.id, matches.c.id).join(matches, matches.c.id == host.c.id)
            with engine.connect() as connection:
                assert {tuple(row) for row in connection.execute(joined)} == {
                    (key, key) for key in chosen
                }
    finally:
        with postgresql_engine.begin() as connection:
            host.drop(connection)


def test_any_filters_together_choose_the_same(pair):
    """Prefix, where, among, min_score and a cut, in random combinations."""
    source = random.Random(5)  # noqa: S311
    rng = np.random.default_rng(5)
    ids = [f"{kind}{n}" for n in range(25) for kind in ("a", "A", "a%")]
    pair.store(
        (id, rng.standard_normal(4), {"lang": source.choice(["de", "en", None]), "n": n % 3})
        for n, id in enumerate(ids)
    )
    for _ in range(25):
        filters: dict[str, Any] = {}
        if source.random() < 0.5:
            filters["prefix"] = source.choice(["a", "A", "a%", "a1", "b"])
        if source.random() < 0.5:
            filters["where"] = {"lang": source.choice(["de", "en", None])}
        if source.random() < 0.3:
            filters["where"] = {**filters.get("where", {}), "n": source.randrange(3)}
        if source.random() < 0.5:
            filters["among"] = source.sample(ids, 30)
        search = by_vector(rng.standard_normal(4))
        levels = gaps(entry.score for entry in search(pair.sqlite, number=ALL, **filters))
        if levels and source.random() < 0.5:
            filters["min_score"] = source.choice(levels)
        pair.compare(search, source.choice([0, 1, 5, ALL]), source.choice([0, 0, 3]), **filters)


# Metadata, contents and vectors, as they are read


def typed(value: Any) -> Any:
    """Return the value with its types, because 1, 1.0 and True are equal to Python."""
    if isinstance(value, dict):
        return {key: typed(member) for key, member in value.items()}
    if isinstance(value, list):
        return [typed(member) for member in value]
    return type(value).__name__, value


def reads_alike(pair: Pair, metadata: dict[str, Any]) -> None:
    """Check that both give back what was stored, by every way to read it."""
    pair.store([("a", [1, 0], metadata)])
    for docs in (pair.sqlite, pair.postgresql):
        record = docs.get("a")
        assert record is not None
        assert typed(record.metadata_) == typed(metadata)
        assert typed(docs.similar_by_vector([1, 0])[0].metadata) == typed(metadata)
        assert typed(next(iter(docs)).metadata_) == typed(metadata)


def test_metadata_comes_back_as_it_was(pair, subtests):
    """Numbers keep their type and value, however large; texts every character."""
    for value in [
        0,
        -1,
        2**31,
        2**53 + 1,
        2**63,
        -(2**64),
        10**30,
        10**300 + 1,
        10**1000,
        0.0,
        1.0,
        1.5,
        100.0,
        0.1 + 0.2,
        1e15,
        1e16,
        1e17,
        1.5e17,
        1e22,
        1e23,
        1e100,
        1e300,
        1.7976931348623157e308,
        1e-5,
        1e-7,
        2.5e-300,
        5e-324,
        -1e16,
        True,
        False,
        None,
        "",
        "é 日本 😀 \U0010ffff",
        'a"\\\n\t\x01\x7f',
        "\u2028",
        [],
        {},
        [[], [[1.0, 1, True, None, "a"]], {}],
        {"a": {"b": [{"c": 1e16}]}},
    ]:
        with subtests.test(ascii(value)[:60]):
            reads_alike(pair, {"value": value, "list": [value], "deep": {"a.b": {"": value}}})


def test_the_keys_of_metadata_come_back_as_they_were(pair):
    """Any text is a key."""
    reads_alike(pair, {key: {key: n} for n, key in enumerate(KEYS)})


JSON = st.recursive(
    SCALARS.filter(lambda value: not (isinstance(value, float) and value == 0)) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(NAMES, JSON, max_size=4))
def test_any_metadata_comes_back_as_it_was(pair, metadata):
    """Whatever JSON can hold is read as it was written, on both."""
    reads_alike(pair, metadata)


@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vector=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3
    ),
    content=st.text(
        st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20
    ),
)
def test_vectors_and_contents_come_back_as_they_were(pair, vector, content):
    """Every float32, denormal or huge, to the last bit, and every character."""
    pair.store([("a", vector, None, content)])
    for docs in (pair.sqlite, pair.postgresql):
        record = docs.get("a")
        assert record is not None
        assert record.embedding.dtype == np.float32
        assert record.embedding.tolist() == vector
        assert record.content == content
