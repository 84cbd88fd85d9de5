"""where= with operators: every database and strategy answers as plain Python does."""

from __future__ import annotations

import enum
import shutil
import sqlite3
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ClauseElement, Engine, Executable, create_engine, select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session

from embeddings import Collection, EmbeddingRecord, InvalidQueryError
from embeddings.searching.filters import MOST_CONDITIONS, MOST_NESTED, OPERATORS, ORDER
from embeddings.searching.query import check_query
from embeddings.searching.scan import scan
from embeddings.testing import DeterministicModel
from tests.reaching import examples, on_both

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Open

VECTOR = [1.0, 0.0]


def field_of(metadata: Any, path: list[str]) -> list[Any]:
    """Return the value in a list, or an empty list where the path leads nowhere."""
    for name in path:
        if not isinstance(metadata, dict) or name not in metadata:
            return []
        metadata = metadata[name]
    return [metadata]


def kind(value: Any) -> type:
    """Return what a value is compared with; an integer and a float are of one kind."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def equal(stored: Any, value: Any) -> bool:
    return kind(stored) is kind(value) and stored == value


def holds(operator: str, operand: Any, found: list[Any]) -> bool:
    """Return what an operator says of a field, in plain Python."""
    if operator == "$not":
        return not all(holds(inner, value, found) for inner, value in operand.items())
    if operator in {"$ne", "$nin"}:
        return not holds({"$ne": "$eq", "$nin": "$in"}[operator], operand, found)
    if operator == "$exists":
        return bool(found) is operand
    if not found:
        return False
    (stored,) = found
    if operator == "$eq":
        return equal(stored, operand)
    if operator == "$in":
        return any(equal(stored, value) for value in operand)
    if operator == "$contains":
        return isinstance(stored, list) and any(equal(inner, operand) for inner in stored)
    if kind(stored) is not kind(operand):
        return False
    return bool(
        {
            "$gt": lambda: stored > operand, "$gte": lambda: stored >= operand,
            "$lt": lambda: stored < operand, "$lte": lambda: stored <= operand,
        }[operator]()
    )  # fmt: skip


def matches(metadata: Any, where: dict[str, Any]) -> bool:
    """Return whether metadata meets a filter. Paths stand in it as tuples of names."""

    def one(key: Any, value: Any) -> bool:
        if key == "$and":
            return all(matches(metadata, part) for part in value)
        if key == "$or":
            return any(matches(metadata, part) for part in value)
        if key == "$not":
            return not matches(metadata, value)
        operators = value if isinstance(value, dict) else {"$eq": value}
        found = field_of(metadata, key)
        return all(holds(operator, operand, found) for operator, operand in operators.items())

    return all(one(key, value) for key, value in where.items())


def written(where: Any) -> Any:
    """Return a filter as it is passed: tuples of names as paths with dots."""
    if isinstance(where, list):
        return [written(part) for part in where]
    if not isinstance(where, dict):
        return where
    return {
        ".".join(map(escaped, key)) if isinstance(key, tuple) else key: written(value)
        for key, value in where.items()
    }


def escaped(name: str) -> str:
    """Return a name whose dots, dollars and backslashes mean themselves."""
    for character in "\\.$":
        name = name.replace(character, f"\\{character}")
    return name


NAMES = st.sampled_from(["a", "b", "a.b", "$a", "", "a\\", "naïve", 'q"', "it's", "a b", "0", "😀"])
TEXTS = st.sampled_from(["", "a", "A", "b", "é", "e\u0301", "ß", "\ud7ff", "\ue000", "😀", "1"])
TEXTS |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
NUMBERS = st.integers(-2, 2) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0.5, 1.0, -0.0])
NUMBERS |= st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.none() | st.dictionaries(NAMES, JSON, max_size=4), min_size=1, max_size=8)


def drawn_operators(draw: Any, there: list[Any]) -> dict[str, Any]:
    """Return one or two operators, in half of the cases about a scalar that there is."""

    def scalar(kinds: set[type] | None = None) -> Any:
        fit = [value for value in there if kinds is None or kind(value) in kinds]
        if fit and draw(st.booleans()):
            return draw(st.sampled_from(fit))
        return draw(SCALARS if kinds is None else NUMBERS | TEXTS)

    operators: dict[str, Any] = {}
    for operator in draw(st.lists(st.sampled_from(OPERATORS), min_size=1, max_size=2)):
        if operator == "$exists":
            operators[operator] = draw(st.booleans())
        elif operator in {"$in", "$nin"}:
            operators[operator] = [scalar() for _ in range(draw(st.integers(0, 3)))]
        elif operator == "$not":
            operators[operator] = drawn_operators(draw, there)
        else:
            operators[operator] = scalar({float, str} if operator in ORDER else None)
    return operators


def drawn_filter(draw: Any, rows: list[Any], depth: int = 2) -> dict[str, Any]:
    """Return a filter, mostly about fields that some row has."""
    shape = draw(st.sampled_from(["field", "field", "fields", "$and", "$or", "$not"]))
    if depth and shape == "$not":
        return {"$not": drawn_filter(draw, rows, depth - 1)}
    if depth and shape in {"$and", "$or"}:
        parts = range(draw(st.integers(1, 3)))
        return {shape: [drawn_filter(draw, rows, depth - 1) for _ in parts]}
    there = [path for metadata in rows for path in paths(metadata)]
    values = [*scalars(rows)]
    where: dict[Any, Any] = {}
    for _ in range(2 if shape == "fields" else 1):
        if there and draw(st.integers(0, 3)):
            path: tuple[str, ...] = draw(st.sampled_from(there))
        else:
            path = tuple(draw(st.lists(NAMES, min_size=1, max_size=2)))
        is_equal = draw(st.booleans())
        where[path] = draw(SCALARS) if is_equal else drawn_operators(draw, values)
    return where


def scalars(value: Any) -> Iterator[Any]:
    """Yield every scalar in JSON."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from scalars(inner)
    else:
        yield value


def paths(value: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field of JSON."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*before, name)
            yield from paths(inner, (*before, name))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Any], list[dict[str, Any]]]:
    """Some rows' metadata, and filters."""
    rows = draw(ROWS)
    return rows, [drawn_filter(draw, rows) for _ in range(draw(st.integers(4, 8)))]


@pytest.fixture
def sessions(
    tmp_path: Path, migrated: Path, empty_postgresql: Callable[[str], Engine]
) -> Iterator[list[Session]]:
    """A session on SQLite and one on PostgreSQL."""
    engine = create_engine(f"sqlite:///{shutil.copy(migrated, tmp_path / 'app.db')}")
    with Session(engine) as first, Session(empty_postgresql("psycopg")) as second:
        yield [first, second]
    engine.dispose()


@settings(max_examples=examples(6), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_all_answer_as_plain_python_does(sessions: list[Session], case: Any):
    """Random JSON and random filters: PostgreSQL, SQLite by a scan and from memory."""
    assert_all_agree(sessions, *case)


def assert_all_agree(sessions: list[Session], rows: list[Any], filters: list[Any]) -> None:
    """Compare what is found by each way with plain Python."""
    for session in sessions:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.store_vectors((str(n), VECTOR, metadata) for n, metadata in enumerate(rows))
        docs.similar_by_vector(VECTOR)  # SQLite keeps the rows in memory after the first
        for where in filters:
            expected = [str(n) for n, metadata in enumerate(rows) if matches(metadata, where)]
            found = docs.similar_by_vector(VECTOR, 100, where=written(where))
            assert [entry.id for entry in found] == expected, where
            if session is sessions[0]:
                query = check_query(docs.reference, number=100, where=written(where))
                with docs.reference.work() as work:
                    docs.reference.find(work)
                    read = scan(work, np.array(VECTOR), query)
                assert [row.id for row in read.rows] == expected, where
        session.rollback()


def folded(fold: Callable[[Any], Any], times: int) -> Any:
    """Return a filter within a filter, and so on."""
    where: Any = {("a b",): {"$gt": 5}}
    for _ in range(times):
        where = fold(where)
    return where


N = ("n",)
FOLDS: list[tuple[int, Callable[[Any], Any]]] = [
    (1, lambda where: {"$not": where}),
    (1, lambda where: {"$or": [{N: 3}, where]}),
    (2, lambda where: {"$or": [{N: 3}, {"$and": [{N: {"$gt": 2}}, where]}]}),
    (2, lambda where: {"$or": [{"$and": [where, {N: {"$gt": 2}}]}, {N: 3}]}),
    (2, lambda where: {"$not": {"$or": [{N: 3}, {N: 4}, where]}}),
    (3, lambda where: {"$or": [{N: 3}, {"$not": {"$and": [{N: {"$lt": 9}}, where]}}]}),
    (2, lambda where: {"$or": [*({N: n} for n in range(15)), {"$and": [where, {N: {"$ne": 2}}]}]}),
]


def test_many_conditions_and_deep_ones(sessions: list[Session]):
    """A database takes no chain of 1,000, nor 30 that are open at once: all are put together."""
    rows = [{"n": n, "a b": n % 8} for n in range(10)]
    many = [{N: n} for n in range(5, 1005)]
    assert_all_agree(
        sessions,
        rows,
        [
            {"$not": {"$or": many}},  # without $not: see the most conditions
            {"$and": [{N: {"$ne": n}} for n in range(5, 1005)]},
            {(f"x{n}",): {"$exists": False} for n in range(1000)},
            # A dict of operators is one more.
            *(folded(fold, (MOST_NESTED - 1) // depth) for depth, fold in FOLDS),
        ],
    )
    docs = Collection("docs", sessions[0], model=DeterministicModel())
    assert docs.similar_by_vector(VECTOR, where=[{"n": {"$ne": n}} for n in range(1000)]) == []


@on_both
def test_the_most_conditions(docs: Collection[str], db: Session):
    """As many as are taken are no error of the database, on any build of SQLite and any driver."""
    docs.store_vectors((str(n), VECTOR, {"n": n}) for n in (1, MOST_CONDITIONS))
    limit_parameters(db)
    where = {"$or": [{"n": n} for n in range(MOST_CONDITIONS)]}
    assert [entry.id for entry in docs.similar_by_vector(VECTOR, where=where)] == ["1"]


def limit_parameters(session: Session) -> None:
    """Take from SQLite what Debian adds: 32,766 is what it has by itself."""
    driver: Any = session.connection().connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)


@pytest.fixture
def items(docs: Collection[str]) -> Collection[str]:
    """Things with a price, tags and a place, not of one type throughout."""
    docs.store_vectors(
        (id, VECTOR, metadata)
        for id, metadata in {
            "chair": {"year": 2021, "tags": ["red", "wood"], "address": {"city": "Oslo"}},
            "lamp": {"year": 2019.5, "tag": "a", "deleted": None, "a.b": 1, "$": 2},
            "sofa": {"year": "2022", "tag": "b", "address": {"city": "Bergen"}},
            "rug": {"year": [2021], "tags": "red", "at": date(2026, 3, 1), "address": ["Oslo"]},
            "vase": None,
        }.items()
    )
    return docs


def found(docs: Collection[str], where: Any) -> str:
    return " ".join(entry.id for entry in docs.similar_by_vector(VECTOR, 100, where=where))


@on_both
def test_what_each_operator_means(items: Collection[str]):
    """The kinds are apart, and the opposites hold where the field is missing."""
    assert found(items, {"year": {"$gte": 2020}}) == "chair"
    assert found(items, {"year": {"$gt": 2019, "$lt": 2021}}) == "lamp"
    assert found(items, {"year": {"$gt": "2020"}}) == "sofa"
    assert found(items, {"tag": {"$in": ["a", "b", 1, None, True]}}) == "lamp sofa"
    assert found(items, {"tag": {"$in": []}}) == ""
    assert found(items, {"tag": {"$nin": ["a"]}}) == "chair rug sofa vase"
    assert found(items, {"tag": {"$ne": "a"}}) == "chair rug sofa vase"
    assert found(items, {"tags": {"$contains": "red"}}) == "chair"
    assert found(items, {"address.city": "Oslo"}) == "chair"
    assert found(items, {"address.city": {"$not": {"$in": ["Oslo"]}}}) == "lamp rug sofa vase"
    assert found(items, {"deleted": {"$exists": True}}) == "lamp"
    assert found(items, {"deleted": {"$exists": False}}) == "chair rug sofa vase"
    assert found(items, {"a\\.b": 1, "\\$": {"$lte": 2}}) == "lamp"
    assert found(items, {"$or": [{"tag": "a"}, {"year": 2021}]}) == "chair lamp"
    assert found(items, {"$not": {"$or": [{"tag": "a"}, {"year": 2021}]}}) == "rug sofa vase"
    assert found(items, {"$and": [{"tag": "a"}, {"year": 2021}]}) == ""
    assert found(items, {"at": {"$gt": date(2026, 2, 28)}}) == "rug"
    assert found(items, {"at": {"$gt": datetime(2026, 3, 1, tzinfo=UTC)}}) == ""


@on_both
def test_dates_are_stored_as_iso_strings(docs: Collection[str]):
    """So they are read, and compared."""
    moment = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    docs.embed("a", "text", {"at": moment, "days": [date(2026, 3, 1)]})
    (entry,) = docs.similar("text", where={"at": moment, "days": {"$contains": date(2026, 3, 1)}})
    assert entry.metadata == {"at": "2026-03-01T12:30:00+00:00", "days": ["2026-03-01"]}


class Colour(enum.Enum):
    """What JSON has nothing for."""

    RED = 1


class Size(enum.StrEnum):
    """What JSON has as its value."""

    LARGE = "l"


@on_both
def test_values_are_sought_as_they_are_stored(docs: Collection[str]):
    """Of whatever type; datetimes with a zone are those of UTC, in the order of time."""
    vienna = timezone(timedelta(hours=2))
    metadata = {
        "moment": datetime(2026, 7, 2, 1, 30, tzinfo=vienna),
        "naive": datetime(2026, 7, 2, 1, 30),  # noqa: DTZ001  that is what this is about
        "at": time(3, 4),
        "owner": uuid.UUID(int=1),
        "price": Decimal("12.50"),
        "colour": Colour.RED,
        "size": Size.LARGE,
    }
    docs.embed("a", "text", metadata | {"all": [*metadata.values()]})
    docs.embed("b", "other", {"last": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))})
    (entry,) = docs.similar("text", where=metadata)
    stored = {
        "moment": "2026-07-01T23:30:00+00:00",
        "naive": "2026-07-02T01:30:00",
        "at": "03:04:00",
        "owner": "00000000-0000-0000-0000-000000000001",
        "price": 12.5,
        "colour": "RED",
        "size": "l",
    }
    assert entry.metadata == stored | {"all": [*stored.values()]}
    second = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
    for other in (second - timedelta(microseconds=1), second + timedelta(microseconds=1)):
        operator = "$gt" if other < second else "$lt"
        assert found_with(docs, {"moment": {operator: other.astimezone(vienna)}}) == ["a"]
        assert found_with(docs, {"moment": {"$ne": other}, "at": {"$lt": time(3, 4, 1)}}) == ["a"]
    for name, value in metadata.items():
        assert found_with(docs, {"all": {"$contains": value}, name: {"$in": [value]}}) == ["a"]
    record = docs.get("b")
    assert record is not None
    assert record.metadata_ == {"last": "9999-12-31T23:59:59.999999-05:00"}


def found_with(docs: Collection[str], where: Any) -> list[str]:
    return [entry.id for entry in docs.similar("text", where=where)]


@on_both
def test_an_expression_and_a_dict_hold_together(items: Collection[str]):
    """In a list, in any number, also where items are deleted; a value is cast as SQL does it."""
    year = EmbeddingRecord.metadata_["year"].as_float() >= 2020
    numbers = EmbeddingRecord.id.in_(["chair", "lamp"])
    assert found(items, [numbers, year]) == "chair"
    assert found(items, [numbers, {"tag": "a"}, {"deleted": None}]) == "lamp"
    assert found(items, [{}, numbers]) == "chair lamp"
    assert items.vectors(where=[numbers, {"tag": {"$ne": "a"}}])[0] == ["chair"]
    assert items.delete_items(where=[numbers, {"year": {"$gt": 2020}}]) == 1
    with pytest.raises(InvalidQueryError, match="give ids"):
        items.delete_items(where=[{}])


WRONG: dict[str, tuple[Any, str]] = {
    "a list": ({"tag": ["a"]}, r"where: 'tag' .*a list.*\$in"),
    "an object": (
        {"address": {"city": "Oslo"}},
        r"'city' is no operator.*\$not\. .*'address.city'",
    ),
    "an empty object": ({"tag": {}}, r"'tag' is compared with an empty dict.*\$exists"),
    "misspelt": ({"year": {"$gtt": 1}}, r"'\$gtt' is no operator: did you mean \$gte?"),
    "of a list": ({"year": {"$gt": [1]}}, r"'year': \$gt is compared with a list"),
    "of a bool": ({"year": {"$gt": True}}, r"\$gt takes a number, a string or a date, not True"),
    "of None": ({"year": {"$lte": None}}, r"\$lte takes a number, a string or a date, not None"),
    "in a number": ({"tag": {"$in": 3}}, r"\$in takes a list of values, not a int"),
    "in a string": ({"tag": {"$nin": "ab"}}, r"'tag': \$nin takes a list of values, not a str"),
    "in lists": ({"tag": {"$in": [["a"]]}}, r"\$in is compared with a list"),
    "contains a list": ({"tags": {"$contains": ["a"]}}, r"\$contains is compared with a list"),
    "exists what": ({"tag": {"$exists": 1}}, r"\$exists takes True or False, not a int"),
    "or a dict": ({"$or": {}}, r"\$or takes a list of dicts, one or more, not an empty dict"),
    "or nothing": ({"$or": []}, r"\$or takes a list of dicts, one or more, not an empty list"),
    "or empty": ({"$or": [{"a": 1}, {}]}, r"\$or\[1\] takes a dict with something in it"),
    "not a list": ({"$not": [{"a": 1}]}, r"\$not takes a dict with something in it, not a list"),
    "not a value": ({"tag": {"$not": "a"}}, r"\$not takes a dict of operators, not a str"),
    "no junction": ({"$nor": [{"a": 1}]}, r"no operator '\$nor' here: did you mean \$or?"),
    "of a field": ({"$gt": 1}, r"no operator '\$gt' here: it belongs to a field"),
    "too large": ({"$or": [{"n": {"$lt": 2**63}}]}, r"\$or\[0\]: 'n': \$lt .*64 bits"),
    "not finite": ({"n": {"$lt": float("nan")}}, "nan, which JSON cannot hold"),
    "no text": ({"tag": {"$in": ["a\0"]}}, r"'tag': \$in contains a NUL"),
    "no text of a field": ({"a\ud800": 1}, "where contains a lone surrogate at position 1"),
    "opposite of it": ({"n": {"$ne": 2**63}}, r"'n': \$ne is compared with .* over 64 bits"),
    "an empty list of where": ([], "a list of these, not an empty list"),
    "in a list of where": ([{"tag": "a"}, {"tag": ["a"]}], r"where\[1\]: 'tag' .*a list"),
    "too deep": (folded(FOLDS[0][1], 51), "where has dicts within dicts more than 50 deep"),
    "endless": (folded(FOLDS[2][1], 1_000), "more than 50 deep"),
    "too many": ({"$or": [{"n": n} for n in range(5_001)]}, r"more than 5,000 conditions: \$in"),
    "too many in a list": ([{"n": n} for n in range(5_001)], "more than 5,000 conditions"),
    "a string in it": ([{"tag": "a"}, "id = 1"], r"where must be .*not str in where\[1\]"),
}


def test_what_means_nothing_is_an_error_that_says_so(engine: Engine, subtests: pytest.Subtests):
    """Never an empty answer, and before the model is called."""
    for label, (where, says) in WRONG.items():
        with subtests.test(label):
            model = DeterministicModel()
            docs = Collection("docs", engine, model=model)
            with pytest.raises(InvalidQueryError, match=says):
                docs.similar("text", where=where)
            with pytest.raises(InvalidQueryError, match=says):
                docs.delete_items(where=where)
            assert not model.calls


INDEXES: dict[str, dict[str, list[Any]]] = {
    "sqlite": {
        "CREATE INDEX of_host ON embeddings (collection_id, json_extract(metadata, '$.a.b'))": [
            {"a.b": 7}, {"a.b": {"$gt": 990}}, {"a.b": {"$in": [3, 7]}}, {"a.b": {"$lt": "x"}},
        ],
    },
    "postgresql": {
        "CREATE INDEX of_host ON embeddings USING gin (metadata jsonb_path_ops)": [
            {"a.b": 7}, {"tags": {"$contains": 7}}, {"a.b": 7, "tags": {"$ne": 1}},
        ],
        "CREATE INDEX of_host ON embeddings ((metadata -> 'a' -> 'b'))": [
            {"a.b": {"$gt": 990}}, {"a.b": {"$in": [3, 7]}},
        ],
        """CREATE INDEX of_host ON embeddings (((metadata -> 'a' ->> 'b') COLLATE "C"))""": [
            {"a.b": {"$gt": "990"}},
        ],
    },
}  # fmt: skip


class Plan(Executable, ClauseElement):
    """A statement's plan, a line a row, in the words of its database."""

    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(Plan)
def _plan(element: Plan, compiler: Any, **options: Any) -> str:
    explain = "EXPLAIN QUERY PLAN" if compiler.dialect.name == "sqlite" else "EXPLAIN"
    return f"{explain} {compiler.process(element.statement, **options)}"


@on_both
def test_an_index_of_the_hosts_serves_filters(opened: Open, db: Session):
    """As the page about searching has it, by the database's own EXPLAIN."""
    docs = opened()
    docs.store_vectors(
        (n, VECTOR, {"a": {"b": n if n % 2 else str(n)}, "tags": [n]}) for n in range(1000)
    )
    name = db.get_bind().dialect.name
    for create, filters in INDEXES[name].items():
        db.execute(text(create))
        db.execute(text("ANALYZE embeddings"))
        for where in filters:
            query = check_query(docs.reference, where=where)
            with docs.reference.work() as work:
                docs.reference.find(work)
                (condition,) = query.conditions(work)
            statement = select(EmbeddingRecord.id).where(
                EmbeddingRecord.collection_id == docs.id, condition
            )
            plan = "\n".join(map(str, db.execute(Plan(statement))))
            assert "of_host" in plan, (where, plan)
        db.execute(text("DROP INDEX of_host"))
    db.rollback()
