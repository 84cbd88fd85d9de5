"""Searching a collection, on every way to reach a database, against a brute-force oracle."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
import re
import struct
import tracemalloc
import uuid
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    case,
    exists,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    text,
    true,
    type_coerce,
    union,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.types import NullType

from embeddings import (
    Collection,
    CollectionRecord,
    CorruptVectorWarning,
    DoesNotExist,
    EmbeddingModel,
    EmbeddingRecord,
    EmbeddingsError,
    Entry,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
    encode,
)
from tests.reaching import (
    WAYS,
    connection_to,
    examples,
    is_postgresql,
    on_a_session,
    on_both,
    on_each_driver,
    on_postgresql,
    on_sqlite,
    rows_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy.orm import Session

    HostTables = Callable[..., None]
    Open = Callable[..., Collection[str]]
    Oracle = Callable[..., list[Any]]

Row = tuple[str, list[float], "dict[str, Any] | None", "str | None"]
"""What `store_vectors` takes: id, vector, metadata, content."""


def shown(value: object) -> str:
    """Return an id for a parameter that is the same in every process."""
    return re.sub(r"0x[0-9a-f]+|[0-9]{12,}", "...", ascii(value))[:60]


class PlainModel(EmbeddingModel):
    """A model whose texts are their vectors, written out, and which counts its calls."""

    model_id = "plain"

    def __init__(self) -> None:
        self.calls = 0

    def embed_batch(self, items: Sequence[str | bytes]) -> list[list[float]]:
        """Return the numbers in each text."""
        self.calls += 1
        return [[float(word) for word in item.split()] for item in items]


def written(vector: Iterable[float]) -> str:
    """Return the text that PlainModel reads as the vector."""
    return " ".join(repr(float(value)) for value in vector)


def rounded(values: Iterable[float]) -> list[float]:
    """Return the values as float32 holds them."""
    vector: list[float] = np.array([*values], np.float32).tolist()
    return vector


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the cosine with every sum rounded once."""
    norms = math.fsum(x * x for x in a) * math.fsum(x * x for x in b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(norms) if norms else 0.0


def nearest(
    rows: Iterable[Row],
    query: Sequence[float],
    number: int = 10,
    offset: int = 0,
    min_score: float | None = None,
    *,
    tolerance: float = 1e-12,
) -> list[Any]:
    """Return what a search has to find: [id, score, content, metadata], the score roughly."""
    scored = sorted(
        (-cosine(vector, query), id, content, metadata) for id, vector, metadata, content in rows
    )
    if min_score is not None:
        scored = [row for row in scored if -row[0] >= min_score]
    return [
        [id, pytest.approx(-negative, rel=0, abs=tolerance), content, metadata]
        for negative, id, content, metadata in scored[offset : offset + number]
    ]


def listed(entries: Iterable[Entry[Any]]) -> list[Any]:
    """Return entries in the form of `nearest`."""
    return [[entry.id, entry.score, entry.content, entry.metadata] for entry in entries]


def ids_of(entries: Iterable[Entry[Any]]) -> list[Any]:
    """Return the ids of entries, in order."""
    return [entry.id for entry in entries]


RNG = np.random.default_rng(7)
IDS = [
    *(
        "a",
        "a%",
        "a%b",
        "a_",
        "a_b",
        "ab",
        "abc",
        "aB",
        "A",
        "Ab",
        "A%b",
        "a'b",
        'a"b',
        "a\\",
        "a b",
    ),
    *(
        "a.b",
        "é",
        "éa",
        "e\u0301",
        "ß",
        "日本",
        "😀",
        "😀😀",
        "\ud7ff",
        "\ud7ffz",
        "\ue000",
        "\ufffd",
    ),
    *(
        "\U0010ffff",
        "\U0010ffff\U0010ffff",
        "a\U0010ffff",
        "a\U0010ffffb",
        "b",
        "%",
        "_",
        "\\",
        "?",
    ),
    *("1", "10", "2", "-1", "z" * 200),
]
ROWS: list[Row] = [
    (
        id,
        rounded(RNG.standard_normal(5)),
        {
            "lang": ("de", "en", "fr")[n % 3],
            "year": 2000 + n % 4,
            "draft": n % 2 == 0,
            "rating": None if n % 5 == 0 else n / 4,
        }
        if n % 7
        else None,
        f"text of {n}" if n % 4 else None,
    )
    for n, id in enumerate(IDS)
]
ROWS += [(f"twin {name}", rounded([1, 2, 3, 4, 5]), {"lang": "de"}, None) for name in "cadb"]
ROWS += [(f"zero {name}", [0.0] * 5, {"lang": "en", "year": 2001}, None) for name in "ba"]
QUERY = rounded(RNG.standard_normal(5))

ARTICLES = Table(
    "articles",
    MetaData(),
    Column("slug", String(300), primary_key=True),
    Column("tenant", Integer),
    Column("published", Boolean),
)
TENANTS = {id: n % 3 for n, (id, *_) in enumerate(ROWS)}
PUBLISHED = {id for n, (id, *_) in enumerate(ROWS) if n % 2}


@pytest.fixture
def plain() -> PlainModel:
    """A model that reads vectors from texts."""
    return PlainModel()


@pytest.fixture
def docs(opened: Open, plain: PlainModel) -> Collection[str]:
    """An empty collection of that model."""
    return opened(model=plain)


@pytest.fixture
def library(opened: Open, plain: PlainModel, docs: Collection[str]) -> Collection[str]:
    """A collection of ROWS, beside one of the same ids that no search may see."""
    opened("neighbour", model=plain).store_vectors((id, QUERY) for id, *_ in ROWS)
    docs.store_vectors(ROWS)
    return docs


@pytest.fixture
def oracle(db: Any) -> Oracle:
    """The function `nearest`, for a database that may compute in float32."""
    return functools.partial(nearest, tolerance=1e-5 if is_postgresql(db) else 1e-12)


@pytest.fixture
def one(session: Session, plain: PlainModel) -> Collection[str]:
    """A collection of ROWS on a session, for what does not depend on the database."""
    docs = Collection("docs", session, model=plain)
    docs.store_vectors(ROWS)
    return docs


@pytest.fixture(scope="module")
def still() -> Iterator[Collection[str]]:
    """A collection of ROWS that all tests share, for what only reads."""
    with Collection("docs", model=PlainModel()) as docs:
        docs.store_vectors(ROWS)
        yield docs


class TestNearest:
    """What is found, and in which order."""

    def test_the_nearest_ten_come_with_all_that_is_stored(self, library, oracle):
        """A search gives the best ten, as entries of id, score, content and metadata."""
        found = library.similar(written(QUERY))
        assert listed(found) == oracle(ROWS, QUERY)
        assert {*map(type, found)} == {Entry}
        assert {type(entry.score) for entry in found} == {float}
        assert [*dataclasses.asdict(found[0])] == ["id", "score", "content", "metadata"]

    def test_number_and_offset_cut_one_and_the_same_order(self, library, oracle):
        """Any number from any offset is that part of the whole order, beyond its end too."""
        for number in (0, 1, 2, 10, len(ROWS), len(ROWS) + 1, 10**30):
            for offset in (0, 1, 3, len(ROWS) - 1, len(ROWS), 10**30):
                found = library.similar(written(QUERY), number, offset=offset)
                assert listed(found) == oracle(ROWS, QUERY, number, offset)

    @on_both
    def test_pages_put_together_are_the_whole(self, library):
        """Going on from an offset neither repeats nor misses an item, within ties either."""
        query = written(rounded([1, 2, 3, 4, 5]))
        pages = [library.similar(query, 3, offset=start) for start in range(0, len(ROWS), 3)]
        assert [entry for page in pages for entry in page] == library.similar(query, len(ROWS))

    @on_both
    def test_min_score_leaves_out_what_scores_less(self, library, oracle):
        """The least score counts before number and offset."""
        for least in (-2, -1.0, -0.5, 0, 0.0, 0.3, 0.9, 1.0):
            for number, offset in ((5, 0), (5, 3), (1000, 0)):
                found = library.similar(written(QUERY), number, offset=offset, min_score=least)
                assert listed(found) == oracle(ROWS, QUERY, number, offset, least)

    @on_both
    def test_the_score_itself_is_enough_for_min_score(self, library):
        """An item that scores just min_score is found."""
        entry = library.similar(written(QUERY))[4]
        found = library.similar(written(QUERY), min_score=entry.score)
        assert ids_of(found) == ids_of(library.similar(written(QUERY), 5))

    def test_ties_are_in_the_order_of_ids(self, library):
        """Equal vectors have equal scores, however they were written, and stand by id."""
        best = library.similar(written(rounded([1, 2, 3, 4, 5])), 4)
        assert ids_of(best) == ["twin a", "twin b", "twin c", "twin d"]
        assert len({entry.score for entry in best}) == 1
        assert ids_of(library.similar(written([1, 2, 3, 4, 5]), 2, offset=1)) == [
            "twin b",
            "twin c",
        ]

    @on_both
    def test_many_ties_stand_by_id_wherever_their_rows_are(self, docs):
        """A thousand equal rows among others come in the order of ids."""
        vector = rounded(RNG.standard_normal(64))
        other = rounded(RNG.standard_normal(64))
        names = [f"{n * 7919 % 3000:04}" for n in range(3000)]
        docs.store_vectors(
            ((id, other if int(id) % 3 else vector) for id in names), batch_size=1000
        )
        expected = [f"{n:04}" for n in range(0, 3000, 3)]
        assert ids_of(docs.similar_by_vector(vector, 1000)) == expected
        assert ids_of(docs.similar_by_vector(vector, 7, offset=490)) == expected[490:497]

    def test_zeros_score_zero(self, library):
        """A vector of zeros scores 0.0 to everything, and everything to it."""
        found = {entry.id: entry.score for entry in library.similar(written(QUERY), 1000)}
        assert [found["zero a"], found["zero b"]] == [0.0, 0.0]
        to_zero = library.similar_by_vector([0] * 5, 1000)
        assert [(entry.id, entry.score) for entry in to_zero] == sorted(
            (id, 0.0) for id, *_ in ROWS
        )

    @on_both
    @pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1e15, 1e38])
    def test_the_length_of_a_vector_does_not_matter(self, docs, scale):
        """Denormal and huge vectors are found by their direction."""
        vectors = {"east": [1, 0, 0], "north-east": [1, 1, 0], "west": [-1, 0, 0]}
        docs.store_vectors(
            (id, [value * size for value in vector])
            for size in (1, scale)
            for id, vector in ((f"{id} {size}", vector) for id, vector in vectors.items())
        )
        scores = [entry.score for entry in docs.similar_by_vector([scale, 0, 0])]
        assert scores == pytest.approx([1, 1, 0.5**0.5, 0.5**0.5, -1, -1], abs=1e-5)

    @on_both
    def test_similar_and_similar_by_vector_agree(self, library):
        """A text is found by its vector."""
        assert library.similar(written(QUERY)) == library.similar_by_vector(QUERY)
        assert library.similar(written(QUERY)) == library.similar_by_vector(
            library.embed_query(written(QUERY))
        )


class TestEmptyCollections:
    """Where there is nothing to compare with."""

    def test_nothing_is_found_and_no_model_is_called(self, docs, plain):
        """An empty collection gives no entries and costs nothing."""
        assert docs.similar("1 2 3") == []
        assert docs.similar("no numbers at all", 3, "a", where={"a": 1}, among=["x"]) == []
        assert docs.similar_by_vector([1, 2, 3]) == []
        assert plain.calls == 0

    @on_both
    def test_a_collection_that_was_emptied_is_as_a_new_one(self, library, plain):
        """After the last item is gone the model is not called either."""
        library.delete_items(ids=[id for id, *_ in ROWS])
        assert library.similar(written(QUERY)) == []
        assert library.similar_by_vector([1.0, 2.0]) == []
        assert plain.calls == 0

    def test_a_value_that_means_nothing_is_refused_all_the_same(self, docs):
        """That nothing is there hides no mistake."""
        for value in (None, 5, ["a"], "a\0b", "\ud800"):
            with pytest.raises(InvalidItemError):
                docs.similar(value)


class TestById:
    """Searching from an item that is stored."""

    def test_the_item_itself_is_left_out(self, library, oracle):
        """Its neighbours are found as by its vector, and no model is called."""
        others = [row for row in ROWS if row[0] != "a%"]
        vector = next(vector for id, vector, *_ in ROWS if id == "a%")
        assert listed(library.similar_by_id("a%", 1000)) == oracle(others, vector, 1000)
        assert listed(library.similar_by_id("a%", 3, offset=2)) == oracle(others, vector, 3, 2)

    def test_identical_twins_are_found(self, library):
        """Only the item itself is left out, not what is equal to it."""
        assert ids_of(library.similar_by_id("twin b", 3)) == ["twin a", "twin c", "twin d"]

    def test_filters_hold(self, library):
        """Every filter holds as in `similar`, before the best are taken."""
        found = library.similar_by_id(
            "twin b", 2, "twin", offset=1, min_score=0.5, where={"lang": "de"}, among=["twin d"]
        )
        assert found == []
        among = ["twin d", "twin b", "a"]
        assert ids_of(library.similar_by_id("twin b", among=among, prefix="twin")) == ["twin d"]

    @on_both
    def test_nothing_is_near_to_an_item_of_zeros(self, library):
        """All scores would be 0.0."""
        assert library.similar_by_id("zero a", 1000) == []

    @on_both
    def test_skip_id_leaves_one_out(self, library, oracle):
        """similar_by_vector can leave out an id, or one that is not there."""
        rest = [row for row in ROWS if row[0] != "twin a"]
        assert listed(library.similar_by_vector(QUERY, skip_id="twin a")) == oracle(rest, QUERY)
        found = library.similar_by_vector(QUERY, skip_id="no such id")
        assert listed(found) == oracle(ROWS, QUERY)

    def test_an_id_that_is_not_there_is_an_error(self, library):
        """So it is in a collection that does not exist yet."""
        for id in ("no such id", "A%", "a%' OR '1'='1"):
            with pytest.raises(DoesNotExist, match=re.escape(f"ID not found: {id!r} in ")):
                library.similar_by_id(id)

    @on_both
    def test_a_collection_without_rows_has_no_id(self, docs):
        """The error is the same before the first write."""
        with pytest.raises(Collection.DoesNotExist, match=r"^ID not found: 'a' in "):
            docs.similar_by_id("a")


class TestPrefix:
    """A prefix is literal and case-sensitive."""

    @on_each_driver
    def test_a_prefix_is_what_python_calls_one(self, library, oracle):
        """Wildcards, quotes, accents and the last code points mean themselves."""
        prefixes = {id[:length] for id in IDS for length in (1, 2, 3)}
        prefixes |= {"no", "a%_", "A%", "[a]", "*", "a*", "\ud7fe", "\U0010fffe", "é\u0301", "%%"}
        for prefix in prefixes:
            expected = [row for row in ROWS if row[0].startswith(prefix)]
            found = library.similar(written(QUERY), 1000, prefix)
            assert listed(found) == oracle(expected, QUERY, 1000), prefix

    @on_both
    def test_no_prefix_is_every_id(self, library):
        """An empty prefix is one of every id."""
        assert len(library.similar(written(QUERY), 1000, None)) == len(ROWS)
        assert len(library.similar(written(QUERY), 1000, "")) == len(ROWS)

    @on_both
    def test_the_result_is_never_short(self, library):
        """The prefix holds before the best are taken."""
        farthest = min(ROWS, key=lambda row: cosine(row[1], QUERY))
        assert ids_of(library.similar(written(QUERY), 1, farthest[0])) == [farthest[0]]


METADATA: dict[str, Any] = {
    "plain": {"lang": "de", "n": 1, "x": 1.5, "yes": True, "no": False, "nothing": None},
    "other case": {"Lang": "de", "lang": "DE"},
    "strings": {"n": "1", "x": "1.5", "yes": "true", "no": "false", "nothing": "null"},
    "as numbers": {"n": 1.0, "yes": 1, "no": 0, "x": 0.1},
    "zero": {"n": 0, "x": -0.0, "no": ""},
    "large": {"n": 2**63 - 1, "x": 1.7976931348623157e308, "i": 2**53 + 1},
    "small": {"n": -(2**63), "x": 5e-324, "i": 2**53, "third": 0.1 + 0.2},
    "nested": {"lang": ["de"], "n": {"n": 1}, "x": {"lang": "de"}, "deep": {"a": 1}, "tags": ["x"]},
    "keys": {
        "naïve": 1, "日本": 2, "😀": 3, 'quo"te': 4, "it's": 5, "a.b": 6, "a[0]": 7, "$": 8, "": 9,
        "a b": 10, "back\\slash": 11, "new\nline": 12, "$.lang": 13, "\u2028": 14, "%": 15, "?": 16,
    },
    "values": {
        "a": "it's", "b": 'quo"te', "c": "back\\slash", "d": "naïve 日本 😀", "e": "new\nline",
        "f": "",
        "g": "%", "h": "'; DROP TABLE embeddings; --", "i": "a/b", "j": "e\u0301", "k": "\x7f\x01",
    },
    "empty": {},
    "none": None,
}  # fmt: skip


def with_escapes(where: dict[str, Any]) -> dict[str, Any]:
    """Return metadata as a filter: in a name, dots, dollars and backslashes mean themselves."""
    return {re.sub(r"([\\.$])", r"\\\1", name): value for name, value in where.items()}


def has(metadata: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Return whether metadata has the values: numbers by value, bools and strings by type."""

    def same(stored: object, value: object) -> bool:
        if isinstance(stored, bool) or isinstance(value, bool):
            return stored is value
        numbers = isinstance(stored, int | float) and isinstance(value, int | float)
        return stored == value and (numbers or type(stored) is type(value))

    return metadata is not None and all(
        key in metadata and same(metadata[key], value) for key, value in wanted.items()
    )


class TestWhereMetadata:
    """where= as a dict: metadata that items must have."""

    @pytest.fixture
    def tagged(self, docs: Collection[str]) -> Collection[str]:
        """A collection of METADATA."""
        docs.store_vectors((id, [1, 0], metadata) for id, metadata in METADATA.items())
        return docs

    @on_each_driver
    def test_every_stored_value_is_found_by_equality(self, tagged):
        """Strings, numbers, bools and None under any key find just the items that have them."""
        wanted: list[dict[str, Any]] = [
            {key: value}
            for metadata in METADATA.values()
            for key, value in (metadata or {}).items()
            if not isinstance(value, dict | list)
        ]
        for where in wanted:
            expected = sorted(id for id, metadata in METADATA.items() if has(metadata, where))
            found = tagged.similar("1 0", 100, where=with_escapes(where))
            assert ids_of(found) == expected, where

    @on_both
    def test_every_value_under_every_key_is_told_apart(self, tagged):
        """1, 1.0, "1" and True are four things, of which the first two are equal."""
        values = [0, 1, -1, 1.0, 1.5, 0.1, "1", "1.5", "", "de", "true", "null", True, False, None]
        for key in ("lang", "n", "x", "yes", "no", "nothing", "deep", "tags", "missing"):
            for value in values:
                expected = sorted(
                    id for id, metadata in METADATA.items() if has(metadata, {key: value})
                )
                found = ids_of(tagged.similar("1 0", 100, where={key: value}))
                assert found == expected, (key, value)

    @on_both
    def test_all_of_several_have_to_hold(self, tagged):
        """A dict of several values is their conjunction, and an empty one is no condition."""
        assert ids_of(tagged.similar("1 0", where={"lang": "de", "n": 1, "yes": True})) == ["plain"]
        assert tagged.similar("1 0", where={"lang": "de", "n": 2}) == []
        assert len(tagged.similar("1 0", 100, where={})) == len(METADATA)

    @on_both
    def test_a_nested_value_is_reached_by_its_path_alone(self, tagged):
        """A dot leads into an object, and what stands for JSON is not the JSON."""
        assert ids_of(tagged.similar("1 0", where={"deep.a": 1})) == ["nested"]
        for where in ({"\\$.deep.a": 1}, {"a": 1}, {"tags": '["x"]'}, {"tags": "x"}):
            assert tagged.similar("1 0", where=where) == [], where

    @pytest.mark.parametrize(
        "where",
        [
            {"a": ["x"]},
            {"a": {"b": 1}},
            {"a": ("x",)},
            {"a": b"x"},
            {"a": timedelta(1)},
            {"a": literal(1)},
            {1: "a"},
            {None: "a"},
            {b"a": 1},
        ],
        ids=shown,
    )
    def test_what_is_no_scalar_under_a_string_is_refused(self, still, where):
        """Nested values and other types are refused, before anything is searched."""
        with pytest.raises(InvalidQueryError, match="where"):
            still.similar(written(QUERY), where=where)

    @pytest.mark.parametrize(
        "value",
        [2**63, -(2**63) - 1, 2**70, 10**400],
        ids=["2**63", "-2**63 - 1", "2**70", "10**400"],
    )
    def test_an_integer_beyond_64_bits_is_compared_or_refused(self, one, value):
        """An integer that no database holds is no error of the driver."""
        one.embed("huge", written(QUERY), {"n": value})
        try:
            found = ids_of(one.similar(written(QUERY), where={"n": value}))
        except InvalidQueryError:
            return
        assert found == ["huge"]

    @pytest.mark.parametrize("where", [{"a": "\ud800"}, {"\ud800": "a"}], ids=shown)
    def test_a_lone_surrogate_is_refused(self, still, where):
        """What is not text is refused as such, not by the driver."""
        with pytest.raises(EmbeddingsError, match="surrogate"):
            still.similar(written(QUERY), where=where)

    def test_random_floats_are_found(self, one):
        """A float is found by itself, to the last bit."""
        source = random.Random(3)  # noqa: S311
        floats = [struct.unpack("<d", source.randbytes(8))[0] for _ in range(examples(60))]
        floats = [value for value in floats if math.isfinite(value)]
        one.store_vectors((f"f{n}", QUERY, {"float": x}) for n, x in enumerate(floats))
        for n, value in enumerate(floats):
            found = one.similar_by_vector(QUERY, where={"float": value})
            assert ids_of(found) == [f"f{n}"], value


RECORD = EmbeddingRecord
COLUMNS = EmbeddingRecord.__table__.c
MOMENT = datetime(2020, 1, 1, tzinfo=UTC)


class TestWhereExpression:
    """where= as a SQL expression over the records."""

    def test_an_expression_holds_before_the_best_are_taken(self, still, subtests):
        """Conditions over the mapped class, its table and subqueries pick the rows."""
        for where, keeps in [
            (RECORD.id == "a%", lambda row: row[0] == "a%"),
            (RECORD.id.in_(["a", "A", "b"]), lambda row: row[0] in {"a", "A", "b"}),
            (RECORD.id > "a", lambda row: row[0] > "a"),
            (RECORD.content.is_(None), lambda row: row[3] is None),
            (RECORD.content.contains("1"), lambda row: "1" in (row[3] or "")),
            (RECORD.metadata_.is_(None), lambda row: row[2] is None),
            (RECORD.updated > 0, lambda row: True),
            (RECORD.updated < 0, lambda row: False),
            (COLUMNS.id == "a_", lambda row: row[0] == "a_"),
            (func.length(COLUMNS.content) == 9, lambda row: len(row[3] or "") == 9),
            (
                func.json_extract(COLUMNS.metadata, "$.year") > 2001,
                lambda row: (row[2] or {}).get("year", 0) > 2001,
            ),
            (or_(RECORD.id == "a", COLUMNS.id == "b"), lambda row: row[0] in {"a", "b"}),
            (and_(RECORD.id < "b", not_(RECORD.id == "a")), lambda row: "a" != row[0] < "b"),
            (~RECORD.id.startswith("a"), lambda row: row[0][0] not in "aA"),
            (RECORD.collection.has(CollectionRecord.name == "docs"), lambda row: True),
            (RECORD.collection.has(CollectionRecord.name == "neighbour"), lambda row: False),
            (exists().where(CollectionRecord.id == RECORD.collection_id), lambda row: True),
            (RECORD.id.in_(select(CollectionRecord.name)), lambda row: False),
            (true(), lambda row: True),
        ]:
            with subtests.test(ascii(where)[:60]):
                expected = nearest(filter(keeps, ROWS), QUERY)
                assert listed(still.similar(written(QUERY), where=where)) == expected
                assert listed(still.similar_by_vector(QUERY, where=where)) == expected

    def test_expressions_work_wherever_the_database_is(self, library, oracle):
        """The record and its table are the same everywhere."""
        for where in (RECORD.id.like("twin%"), COLUMNS.id.like("twin%")):
            found = library.similar(written(QUERY), 2, where=where)
            twins = [row for row in ROWS if row[0].startswith("twin")]
            assert listed(found) == oracle(twins, QUERY, 2)

    @pytest.mark.parametrize(
        ("where", "name"),
        [
            (CollectionRecord.name == "docs", "collections"),
            (ARTICLES.c.published, "articles"),
            (and_(RECORD.id == ARTICLES.c.slug, ARTICLES.c.tenant == 1), "articles"),
            (COLUMNS.id == aliased(CollectionRecord, name="other").name, "other"),
        ],
        ids=["collections", "host", "host joined", "alias"],
    )
    def test_another_table_is_refused_by_name(self, still, where, name):
        """A condition on another table, which would multiply the rows, names it and among=."""
        with pytest.raises(InvalidQueryError, match=rf"where is about .*{name}.*among="):
            still.similar(written(QUERY), where=where)

    def test_what_is_no_expression_is_refused(self, still, subtests):
        """SQL as a string above all."""
        for where in [
            "id = 'a'",
            True,
            1,
            [],
            ["lang"],
            ("lang", "de"),
            {"lang"},
            b"id",
            EmbeddingRecord,
            select(COLUMNS.id),
            lambda: True,
        ]:
            with (
                subtests.test(ascii(where)[:60]),
                pytest.raises(InvalidQueryError, match="where must be"),
            ):
                still.similar(written(QUERY), where=where)
        with pytest.raises(InvalidQueryError, match="which does not say what table"):
            still.similar(written(QUERY), where=text("id = 'a'"))

    @pytest.mark.parametrize(
        "where",
        [
            COLUMNS.updated < MOMENT,
            COLUMNS.updated.between(MOMENT, MOMENT),
            COLUMNS.updated.in_([MOMENT]) | (COLUMNS.id == "a"),
            EmbeddingRecord.updated >= MOMENT.date(),
            EmbeddingRecord.metadata_["at"].as_string() < MOMENT,
        ],
    )
    def test_a_number_or_a_text_is_compared_with_no_moment(self, still, where):
        """SQLite finds every number less than any text: a deletion would take all rows."""
        with pytest.raises(InvalidQueryError, match=r"with a moment.*timestamp\(\)"):
            still.similar(written(QUERY), where=where)

    @on_both
    def test_other_sides_of_a_comparison_are_not_looked_into(self, library):
        """What stands in a subquery, or is given to a function, is the host's."""
        moment = literal(MOMENT, DateTime(timezone=True))
        times = select(moment.label("at"), literal("no id").label("key")).subquery()
        of_host = select(times.c.key).where(times.c.at > MOMENT)
        for where in (
            COLUMNS.id.in_(of_host),
            COLUMNS.id == of_host.limit(1).scalar_subquery(),
            exists().where(times.c.key == COLUMNS.id, times.c.at > MOMENT),
            COLUMNS.updated < case((moment < MOMENT, 5), else_=-1),
            EmbeddingRecord.metadata_["tag"].as_string() == func.coalesce("a", None),
        ):
            assert library.similar(written(QUERY), where=where) == []

    @pytest.mark.parametrize("value", ["pet", 1, 1.5, True, ["pet", "cat"]])
    def test_a_field_of_the_metadata_is_compared_as_a_type(self, still, value):
        """As what SQLAlchemy's users write first."""
        tag = EmbeddingRecord.metadata_["tag"]
        where = tag.in_(value) if isinstance(value, list) else tag == value
        with pytest.raises(InvalidQueryError, match=r"has no type: write .as_string\(\)"):
            still.similar(written(QUERY), where=where)


class TestAmong:
    """among=: only these keys, from Python or from the host's own table."""

    def test_only_these_keys(self, library, oracle):
        """Any iterable of keys, generators included, whether they are there or not."""
        keys = ["a", "a%", "twin b", "zero a", "\U0010ffff", "it's", "no such id", "a"]
        expected = [row for row in ROWS if row[0] in keys]
        for among in (keys, tuple(keys), {*keys}, iter(keys), dict.fromkeys(keys)):
            assert listed(library.similar(written(QUERY), among=among)) == oracle(expected, QUERY)

    @on_both
    def test_among_none_of_them_is_nothing(self, library):
        """An empty list is not the same as no condition."""
        assert library.similar(written(QUERY), among=[]) == []
        assert library.similar(written(QUERY), among=iter(())) == []
        assert library.similar_by_id("a", among=[]) == []
        assert len(library.similar(written(QUERY), 1000, among=None)) == len(ROWS)

    @on_each_driver
    def test_a_hundred_thousand_keys(self, library, oracle):
        """There is no limit on their number."""
        keys = [f"no such id {n}" for n in range(100_000)] + ["a", "b"]
        expected = [row for row in ROWS if row[0] in {"a", "b"}]
        assert listed(library.similar(written(QUERY), among=keys)) == oracle(expected, QUERY)

    @on_both
    def test_integers_are_accepted_among_string_keys(self, library, oracle):
        """With the default keys an integer stands for its decimals."""
        expected = [row for row in ROWS if row[0] in {"1", "-1", "10"}]
        assert listed(library.similar(written(QUERY), among=[1, -1, "10"])) == oracle(
            expected, QUERY
        )

    def test_a_select_of_the_hosts_keys(self, articles, library, oracle):
        """Published articles of a tenant, chosen in the database before the best are taken."""
        slug, tenant, published = ARTICLES.c
        chosen = select(slug).where(published, tenant == 1)
        expected = [row for row in ROWS if row[0] in PUBLISHED and TENANTS[row[0]] == 1]
        assert listed(library.similar(written(QUERY), among=chosen)) == oracle(expected, QUERY)
        assert listed(library.similar_by_vector(QUERY, 3, among=chosen, offset=1)) == oracle(
            expected, QUERY, 3, 1
        )
        assert library.similar(written(QUERY), among=select(slug).where(tenant == 99)) == []

    @pytest.mark.parametrize(
        ("among", "expected"),
        [
            (select(COLUMNS.id).where(COLUMNS.id.in_(["a", "b"])), {"a", "b"}),
            (select(EmbeddingRecord.id).where(EmbeddingRecord.id == "ab"), {"ab"}),
            (select(COLUMNS.id).order_by(COLUMNS.id.desc()).limit(1), {"\U0010ffff" * 2}),
            (union(select(literal("a")), select(literal("b"))), {"a", "b"}),
            (select(literal("a").label("id")).union_all(select(literal("a"))), {"a"}),
            (text("SELECT 'a' AS id").columns(Column("id", Text)), {"a"}),
            (select(literal(10)), {"10"}),
            (select(literal(None, Text)), set()),
        ],
        ids=["table", "mapped", "limited", "union", "labelled", "textual", "integer", "null"],
    )  # fmt: skip
    def test_every_form_of_select(self, still, among, expected):
        """Unions, limits and textual selects choose keys as well."""
        found = still.similar(written(QUERY), among=among)
        assert listed(found) == nearest([row for row in ROWS if row[0] in expected], QUERY)

    def test_what_is_neither_keys_nor_a_select_of_them_is_refused(self, still, subtests):
        """A single string, other types and more than one column are refused."""
        for among in [
            "a",
            b"a",
            5,
            1.5,
            True,
            object(),
            COLUMNS.id,
            select(COLUMNS.id, COLUMNS.content),
            select(EmbeddingRecord),
            [None],
            [True],
            [1.5],
            [b"a"],
            [""],
            ["a\0"],
            ["\ud800"],
            [["a"]],
            [uuid.UUID(int=1)],
        ]:
            with (
                subtests.test(ascii(among)[:60]),
                pytest.raises((InvalidQueryError, InvalidItemError)),
            ):
                still.similar(written(QUERY), among=among)


@pytest.fixture
def articles(db: Any, host_tables: HostTables) -> None:
    """The host's table, with an article for each of ROWS."""
    host_tables(ARTICLES)
    with connection_to(db) as connection:
        connection.execute(
            insert(ARTICLES),
            [
                {"slug": id, "tenant": tenant, "published": id in PUBLISHED}
                for id, tenant in TENANTS.items()
            ],
        )


class TestCombined:
    """All filters at once."""

    @on_each_driver
    def test_any_combination_is_what_brute_force_finds(self, request, articles, library, oracle):
        """Every combination of the filters agrees with filtering, scoring and sorting all.

        Each is asked with one of the cuts, which is another through the next driver.
        """
        slug, tenant, _ = ARTICLES.c
        chosen = [*TENANTS][10:40]
        none: list[tuple[Any, Callable[[Row], object]]] = [(None, lambda row: True)]
        prefixes = [
            *none,
            ("a", lambda row: row[0].startswith("a")),
            ("twin", lambda row: row[0].startswith("twin")),
        ]
        wheres = [
            *none,
            ({"lang": "de"}, lambda row: has(row[2], {"lang": "de"})),
            (RECORD.content != "text of 1", lambda row: row[3] not in {None, "text of 1"}),
        ]
        amongs = [
            *none,
            (chosen, lambda row: row[0] in chosen),
            (select(slug).where(tenant == 1), lambda row: TENANTS[row[0]] == 1),
        ]
        cuts: list[dict[str, Any]] = [
            {"number": 3},
            {"number": 100, "min_score": 0.1},
            {"number": 4, "offset": 2, "min_score": -0.5},
        ]
        driver = request.node.callspec.indices["db"]
        for number, combination in enumerate(itertools.product(prefixes, wheres, amongs)):
            turn = (driver + number + number // 3 + number // 9) % 3
            (prefix, _), (where, _), (among, _) = combination
            rows = [row for row in ROWS if all(keeps(row) for _, keeps in combination)]
            for cut in cuts if WAYS == "all" else [cuts[turn]]:
                found = library.similar_by_vector(
                    QUERY, prefix=prefix, where=where, among=among, **cut
                )
                assert listed(found) == oracle(rows, QUERY, **cut), (prefix, where, among, cut)


class TestRefusedArguments:
    """Arguments that mean nothing are refused, and name themselves."""

    @pytest.mark.parametrize("name", ["number", "offset"])
    def test_number_and_offset_are_whole_and_not_negative(self, still, name, subtests):
        """-1 is not "all of them", and True is not 1."""
        for value in [-1, 1.0, 2.5, "3", None, True, False, [1], math.nan]:
            with (
                subtests.test(ascii(value)[:60]),
                pytest.raises(InvalidQueryError, match=rf"^{name} must be"),
            ):
                still.similar(written(QUERY), **{name: value})

    def test_min_score_is_a_finite_number(self, still, subtests):
        """NaN, infinity, strings and bools are no scores."""
        for value in [math.nan, math.inf, -math.inf, "0.5", [0.5], 1j, b"", 10**400, True, False]:
            with (
                subtests.test(ascii(value)[:60]),
                pytest.raises(InvalidQueryError, match=r"^min_score must be"),
            ):
                still.similar(written(QUERY), min_score=value)
        for value in (80, 1.5, 1e300):  # percentages, distances
            with pytest.raises(InvalidQueryError, match=rf"at most 1, not {re.escape(str(value))}"):
                still.similar(written(QUERY), min_score=value)

    def test_prefix_is_a_string(self, still, subtests):
        """Anything else is refused, also what is false."""
        for value in [5, 0, True, False, b"a", b"", ["a"], [], 1.5, {}]:
            with (
                subtests.test(ascii(value)[:60]),
                pytest.raises(InvalidQueryError, match=r"^prefix must be"),
            ):
                still.similar(written(QUERY), prefix=value)

    @pytest.mark.parametrize("value", ["a\0", "\ud800", "a\udfff"], ids=shown)
    def test_prefix_is_text(self, still, value):
        """NUL and lone surrogates are in no stored id."""
        with pytest.raises((InvalidQueryError, InvalidItemError), match="prefix"):
            still.similar(written(QUERY), prefix=value)

    def test_every_search_refuses_them(self, still, subtests):
        """The six searches check alike."""
        search: Any
        for search in [
            lambda docs, **options: docs.similar(written(QUERY), **options),
            lambda docs, **options: docs.similar_by_id("a", **options),
            lambda docs, **options: docs.similar_by_vector(QUERY, **options),
            lambda docs, **options: docs.matches(written(QUERY), **options),
            lambda docs, **options: docs.matches_by_id("a", **options),
            lambda docs, **options: docs.matches_by_vector(QUERY, **options),
        ]:
            options: Any
            for options in [
                {"number": -1},
                {"offset": -1},
                {"min_score": math.nan},
                {"prefix": 5},
                {"where": "id = 'a'"},
                {"among": "a"},
            ]:
                with subtests.test(ascii(options)), pytest.raises(InvalidQueryError):
                    search(still, **options)

    @pytest.mark.parametrize("options", [{"number": -1}, {"where": 1}, {"prefix": 5}], ids=shown)
    def test_they_are_refused_before_the_model_is_called(self, one, plain, options):
        """A mistake costs nothing."""
        with pytest.raises(InvalidQueryError):
            one.similar(written(QUERY), **options)
        assert plain.calls == 0

    def test_an_unknown_argument_is_a_type_error(self, still):
        """A misspelt filter is not passed over."""
        with pytest.raises(TypeError, match="min_scores"):
            still.similar(written(QUERY), min_scores=0.5)

    def test_a_query_of_other_dimensions_is_an_error(self, library):
        """Both numbers of dimensions are in the message."""
        for size in (1, 4, 6, 10):
            with pytest.raises(InvalidVectorError, match=rf"{size} dimensions.* 5$"):
                library.similar_by_vector(np.ones(size, np.float32))
            with pytest.raises(InvalidVectorError, match=rf"{size} dimensions.* 5$"):
                library.similar(written([1.0] * size))

    @pytest.mark.parametrize(
        "vector",
        [[math.nan] * 5, [1, 2, math.inf, 4, 5], [], None, "12345", b"12345", [QUERY],
         np.ones((1, 5))],
        ids=shown,
    )  # fmt: skip
    def test_a_query_that_is_no_finite_vector_is_an_error(self, still, vector):
        """NaN would be near to nothing, and is refused."""
        with pytest.raises(InvalidVectorError):
            still.similar_by_vector(vector)


PAYLOADS = [
    "'; DROP TABLE embeddings; --", '"; DELETE FROM embeddings; --', "' OR '1'='1", "' OR 1=1 --",
    "x' UNION SELECT name, 1 FROM sqlite_master --", "\\'; DELETE FROM collections; --", "%", "_",
    "%%",
    "?", ":called", ":id", "%s", "%(id)s", "{}", "$1", "*", "/*", "--", ";", "`", "[", "]]", "()",
    '{"a": 1}', '["a"]', "$[0]", "NULL", "1", "1.0", "0x1", "true", "\\", '"', "'", "''", "\u2028",
]  # fmt: skip


def field(name: str) -> str:
    """A name as the field of a filter, where dots, dollars and backslashes mean something."""
    return re.sub(r"([.$\\])", r"\\\1", name)


class TestInjection:
    """What strings hold is never SQL, wherever they come in."""

    @on_each_driver
    def test_ids_prefixes_keys_and_values_are_literal(self, docs):
        """Payloads match themselves and change nothing."""
        docs.store_vectors((id, [1, n], {id: id}, id) for n, id in enumerate(PAYLOADS))
        for id in PAYLOADS[:20]:
            assert ids_of(docs.similar("1 0", 99, among=[id])) == [id]
            assert ids_of(docs.similar("1 0", 99, where={field(id): id})) == [id]
            expected = [other for other in PAYLOADS if other.startswith(id)]
            assert sorted(ids_of(docs.similar("1 0", 99, id))) == sorted(expected)
            assert docs.similar("1 0", where={"no such key": id}) == []
            assert len(docs.similar_by_id(id, 99)) == len(PAYLOADS) - 1
        assert docs.ids() == sorted(PAYLOADS)

    @on_both
    def test_names_are_literal(self, opened, plain):
        """A collection may be called anything, and is found under just that name."""
        for payload in PAYLOADS[:16]:
            opened(payload, model=plain).store_vectors([("a", [1, 0]), (payload, [0, 1])])
        for payload in PAYLOADS[:16]:
            found = opened(payload, model=plain).similar("1 0")
            assert ids_of(found) == ["a", payload]

    @on_each_driver
    def test_deleting_and_changing_are_literal_too(self, opened, plain):
        """A payload deletes and changes what is called so, and nothing else."""
        docs = opened(model=plain)
        docs.store_vectors((id, [1, 0]) for id in PAYLOADS)
        for payload in PAYLOADS[:12]:
            docs.set_metadata(payload, {payload: payload})
            assert ids_of(docs.similar("1 0", where={field(payload): payload})) == [payload]
            assert docs.delete_items([payload], where={field(payload): payload}) == 1
            assert docs.delete_items(where={field(payload): payload}) == 0
            assert docs.ids() == sorted({*PAYLOADS} - {payload})
            docs.store_vectors([(payload, [1, 0])])
        docs.rename(PAYLOADS[0])
        assert opened(PAYLOADS[0], model=plain).count() == len(PAYLOADS)


CORRUPT: dict[str, Any] = {
    "too short": encode([1, 2, 3]),
    "too long": encode([1, 2, 3, 4, 5, 6]),
    "no multiple of four": encode([1, 2, 3, 4, 5])[:-1],
    "one byte too many": encode([1, 2, 3, 4, 5]) + b"\0",
    "empty": b"",
    "NaN": struct.pack("<5f", 1, 2, math.nan, 4, 5),
    "infinity": struct.pack("<5f", 1, 2, math.inf, 4, 5),
    "NULL": None,
    "TEXT": "text",
    "TEXT of the right length": "twenty characters ok",
    "number": 12,
}


def corrupt(db: Any, value: object, *ids: str) -> None:
    """Write a value in the place of the vectors of these items of the collection docs."""
    of_docs = select(CollectionRecord.id).where(CollectionRecord.name == "docs").scalar_subquery()
    statement = update(COLUMNS.embedding.table).where(
        COLUMNS.id.in_(ids), COLUMNS.collection_id == of_docs
    )
    with connection_to(db) as connection:
        connection.execute(statement.values(embedding=type_coerce(literal(value), NullType())))


class TestCorruptVectors:
    """Vectors that cannot be compared are left out with a warning, or are a clear error."""

    @on_sqlite
    @pytest.mark.parametrize("name", ["too long", "NaN", "NULL"])
    def test_one_is_left_out_with_one_warning(self, db, library, name, oracle):
        """Whichever row it is, the others are found as if it were not there.

        On SQLite only, where any program can write any bytes; pgvector refuses them.
        """
        order = sorted(id for id, *_ in ROWS)
        id = order[0]
        corrupt(db, CORRUPT[name], id)
        rest = [row for row in ROWS if row[0] != id]
        with pytest.warns(CorruptVectorWarning) as caught:
            found = library.similar_by_vector(QUERY, 1000)
        assert listed(found) == oracle(rest, QUERY, 1000)
        assert len(caught) == 1
        assert repr(id) in str(caught[0].message)

    @on_postgresql
    @pytest.mark.parametrize("value", [[1, 2, 3], [1, 2, 3, 4, 5, 6], None], ids=shown)
    def test_what_postgresql_can_store_is_left_out(self, db, library, oracle, value):
        """Vectors of other dimensions, and none, are no error and no warning in a search.

        On PostgreSQL only, where they are no corrupt bytes, and filtered by the database.
        """
        order = sorted(id for id, *_ in ROWS)
        for ids in (order[:1], order[-1:], ["twin a", "twin c", "a%", "a'b"]):
            statement = update(COLUMNS.embedding.table).where(
                COLUMNS.id.in_(ids), COLUMNS.collection_id == library.id
            )
            with connection_to(db) as connection:
                connection.execute(statement.values(embedding=value))
            rest = [row for row in ROWS if row[0] not in ids]
            assert listed(library.similar_by_vector(QUERY, 1000)) == oracle(rest, QUERY, 1000)
            assert rows_of(
                db,
                select(func.count()).select_from(library.matches_by_vector(QUERY, 1000)),
            ) == [(len(rest),)]
            library.delete_items(ids)
            library.store_vectors(ROWS)

    def test_it_does_not_matter_which_ones(self, session, one, subtests):
        """The first, the last, some in between: one warning names them, at every search."""
        for label, value in CORRUPT.items():
            with subtests.test(label):
                order = sorted(id for id, *_ in ROWS)
                for ids in ((order[-1],), (order[0], order[-1]), ("twin a", "twin c", "a%", "a'b")):
                    corrupt(session, value, *ids)
                    rest = [row for row in ROWS if row[0] not in ids]
                    for kwargs in ({}, {"min_score": 0.2}, {"number": 3, "offset": 1}):
                        with pytest.warns(CorruptVectorWarning) as caught:
                            found = one.similar_by_vector(QUERY, **kwargs)
                        assert listed(found) == nearest(rest, QUERY, **kwargs)
                        assert len(caught) == 1
                        assert all(repr(id) in str(caught[0].message) for id in ids)
                    one.delete_items(ids)
                    one.store_vectors(ROWS)

    def test_all_of_them_are_a_warning_or_an_error(self, session, one, subtests):
        """A collection without one valid vector is not taken for an empty one."""
        for label, value in CORRUPT.items():
            with subtests.test(label):
                corrupt(session, value, *(id for id, *_ in ROWS))
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    try:
                        found = one.similar_by_vector(QUERY)
                    except InvalidVectorError:
                        return
                assert found == []
                assert [warning.category for warning in caught] == [CorruptVectorWarning]

    @pytest.mark.parametrize("name", sorted(CORRUPT.keys() - {"too long", "too short"}))
    def test_the_neighbours_of_one_are_an_error(self, session, one, name):
        """There is nothing to compare with."""
        corrupt(session, CORRUPT[name], "a")
        with pytest.raises(InvalidVectorError):
            one.similar_by_id("a")

    def test_a_vector_that_is_missing_is_called_so(self, session, one):
        """The error for NULL tells of the stored vector, not of Python's None."""
        corrupt(session, None, "a")
        with pytest.raises(InvalidVectorError, match="stored vector"):
            one.similar_by_id("a")

    def test_many_are_counted(self, session, one):
        """The warning names some and counts the rest."""
        corrupt(session, b"abc", *(id for id, *_ in ROWS[:30]))
        with pytest.warns(CorruptVectorWarning, match="and 25 more"):
            one.similar_by_vector(QUERY)

    def test_one_that_the_filters_leave_out_is_no_matter(self, session, one):
        """Only what is searched is looked at."""
        corrupt(session, b"abc", "b")
        twins = [row for row in ROWS if row[0].startswith("twin")]
        assert listed(one.similar_by_vector(QUERY, prefix="twin")) == nearest(twins, QUERY)

    @on_a_session
    def test_another_collection_is_no_matter(self, db, library, opened, plain):
        """Only the rows of the collection are looked at."""
        corrupt(db, b"abc", "a", "b")
        assert len(opened("neighbour", model=plain).similar_by_vector(QUERY, 1000)) == len(ROWS)

    @pytest.mark.parametrize("value", CORRUPT.values(), ids=CORRUPT)
    @pytest.mark.parametrize("remedy", ["delete", "force"])
    def test_the_remedy_of_the_warning_works(self, session, one, plain, remedy, value):
        """Embedded again with force=True, or deleted, it is a warning no more."""
        first = min(id for id, *_ in ROWS)
        corrupt(session, value, first)
        if remedy == "delete":
            assert one.delete_items([first]) == 1
        else:
            one.embed(first, written(QUERY), force=True)
        rest = [row for row in ROWS if row[0] != first]
        fixed: list[Row] = [] if remedy == "delete" else [(first, QUERY, None, None)]
        found = one.similar_by_vector(QUERY, 3)
        expected = nearest(rest + fixed, QUERY, 3)
        assert [row[:2] for row in listed(found)] == [row[:2] for row in expected]

    @pytest.mark.parametrize("name", ["NaN", "infinity", "TEXT of the right length"])
    def test_a_corrupt_vector_is_not_copied(self, session, one, plain, name):
        """The same content under another id does not take over what cannot be compared."""
        one.embed("original", written(QUERY))
        corrupt(session, CORRUPT[name], "original")
        one.embed("copy", written(QUERY))
        assert plain.calls == 2
        assert one.get("copy").embedding.tolist() == QUERY

    def test_a_row_without_an_id_does_no_harm(self, session, one):
        """The documented schema allows NULL as an id; it is never an entry."""
        session.execute(
            text("INSERT INTO embeddings (collection_id, embedding) VALUES (:of, :vector)"),
            {"of": one.id, "vector": encode(ROWS[0][1])},
        )
        assert listed(one.similar_by_vector(ROWS[0][1], 1)) == nearest(ROWS, ROWS[0][1], 1)


class TestMemory:
    """A scan holds little at a time."""

    @pytest.mark.parametrize(("count", "size"), [(8_000, 1024), (50_000, 16)])
    def test_the_memory_of_a_search_does_not_grow_with_the_collection(self, engine, count, size):
        """Tens of megabytes, or tens of thousands of rows, take a few megabytes to search."""
        docs = Collection("docs", engine, model=PlainModel())
        docs.store_vectors([("00000000", [1.0] * size)])
        vectors = np.random.default_rng(1).standard_normal((count, size), np.float32)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO embeddings (collection_id, id, embedding) VALUES (1, ?, ?)",
                [(f"{n:08}", vector.tobytes()) for n, vector in enumerate(vectors, 1)],
            )
        query = vectors[count // 2].tolist()
        del vectors
        docs.similar_by_vector(query, 1)
        tracemalloc.start()
        try:
            found = docs.similar_by_vector(query, 20, min_score=0.0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found[0].id == f"{count // 2 + 1:08}"
        assert found[0].score == pytest.approx(1.0)
        assert len(found) == 20
        assert peak < 5_000_000
