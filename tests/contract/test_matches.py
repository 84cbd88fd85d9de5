"""Searches as selectables to join to a host's tables, and ids in the type of the host's keys."""

from __future__ import annotations

import enum
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    Select,
    String,
    Text,
    Uuid,
    cast,
    event,
    exists,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    mapped_column,
    relationship,
)

from embeddings import (
    Collection,
    DoesNotExist,
    EmbeddingModel,
    EmbeddingRecord,
    InvalidItemError,
    encode,
)
from tests.reaching import connection_to, not_on_citus, on_a_session, on_each_driver, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Subquery

    Open = Callable[..., Collection[Any]]
    HostTables = Callable[..., None]


def shown(value: object) -> str:
    """Return an id for a parameter that is the same in every process."""
    return re.sub(r"0x[0-9a-f]+|[0-9]{12,}", "...", ascii(value))[:60]


class PlainModel(EmbeddingModel):
    """A model whose texts are their vectors, written out."""

    model_id = "plain"

    def embed_batch(self, items: Sequence[str | bytes]) -> list[list[float]]:
        """Return the numbers in each text."""
        return [[float(word) for word in item.split()] for item in items]


class Base(DeclarativeBase):
    """The host's own tables."""


class IntegerArticle(Base):
    """An article with an integer for a key."""

    __tablename__ = "integer_articles"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str]
    comments: Mapped[list[Comment]] = relationship()


class UuidArticle(Base):
    """An article with a UUID for a key."""

    __tablename__ = "uuid_articles"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    title: Mapped[str]


class StringArticle(Base):
    """An article with a string for a key."""

    __tablename__ = "string_articles"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    title: Mapped[str]


class PlainUuidArticle(Base):
    """An article whose UUID is a string to Python."""

    __tablename__ = "plain_uuid_articles"
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    title: Mapped[str]


class Comment(Base):
    """A row with a second integer key."""

    __tablename__ = "comments"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    article_id: Mapped[int] = mapped_column(ForeignKey(IntegerArticle.id))


@dataclass
class Host:
    """A host's table, its keys, and the collection that goes with it."""

    article: Any
    keys: list[Any]
    other: Any
    """A key that is nowhere."""
    key_type: type
    db: Any = None
    docs: Any = None


HOSTS = {
    "integer": Host(IntegerArticle, [7, 1, 10, -3, 2**40, 0, 2], 99, int),
    "uuid": Host(UuidArticle, [uuid.UUID(int=n**9 * 7) for n in range(7)], uuid.UUID(int=5),
                 uuid.UUID),
    "string": Host(StringArticle, ["b", "a'b", 'a"b\\', "日本 😀", "1", "null", '["x"]'], "none",
                   str),
}  # fmt: skip
VECTORS = [[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-1.0, 0.25], [0.0, 0.0], [1.0, 0.5], [0.3, 0.7]]
QUERY = "1 0.1"


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, db: Any, opened: Open, host_tables: HostTables) -> Host:
    """A host with seven articles, of which the first six are in its collection."""
    kind = HOSTS[request.param]
    host_tables(kind.article.__table__)
    with connection_to(db) as connection:
        connection.execute(
            insert(kind.article), [{"id": key, "title": f"about {key}"} for key in kind.keys]
        )
    docs = opened("articles", model=PlainModel(), key=kind.article.id)
    docs.store_vectors(
        (key, vector, {"n": n})
        for n, (key, vector) in enumerate(zip(kind.keys[:6], VECTORS, strict=False))
    )
    return Host(kind.article, kind.keys, kind.other, kind.key_type, db, docs)


def best_first(found: Subquery) -> Select[Any]:
    """Return a SELECT of matches in the order of a search."""
    return select(found.c.id, found.c.score).order_by(found.c.score.desc(), found.c.id)


def pairs_of(rows: Any) -> list[tuple[Any, Any]]:
    """Return (id, score) pairs sorted by score, then id, the scores to be compared roughly."""
    pairs = sorted(((row.id, row.score) for row in rows), key=lambda pair: (-pair[1], str(pair[0])))
    return [(id, pytest.approx(score, abs=1e-12)) for id, score in pairs]


FILTERS: list[dict[str, Any]] = [
    {},
    {"number": 2},
    {"number": 3, "offset": 1},
    {"offset": 4},
    {"min_score": 0.5},
    {"where": {"n": 2}},
    {"where": EmbeddingRecord.metadata_.is_not(None), "number": 4},
    {"number": 0},
    {"offset": 100},
]


class TestMatches:
    """The selectable has what the search finds."""

    @on_a_session
    def test_the_columns_are_id_and_score(self, host):
        """There are these two and no others, the id in the type of the host's column."""
        found = host.docs.matches(QUERY)
        assert found.c.keys() == ["id", "score"]
        assert found.c.id.type.python_type is host.key_type
        assert found.c.score.type.python_type is float

    @on_each_driver
    def test_ids_and_scores_are_those_of_the_search(self, host):
        """Each of the three gives what its sibling lists, with every filter."""
        first = host.keys[0]
        for filters in FILTERS:
            for found, entries in (
                (host.docs.matches(QUERY, **filters), host.docs.similar(QUERY, **filters)),
                (
                    host.docs.matches_by_id(first, **filters),
                    host.docs.similar_by_id(first, **filters),
                ),
                (
                    host.docs.matches_by_vector([1, 0.1], skip_id=first, **filters),
                    host.docs.similar_by_vector([1, 0.1], skip_id=first, **filters),
                ),
            ):
                rows = rows_of(host.db, select(found))
                assert pairs_of(rows) == pairs_of(entries), filters
                assert {type(row.id) for row in rows} <= {host.key_type}
                assert {type(row.score) for row in rows} <= {float}

    @not_on_citus("rows of the host's that are not committed are not joined to")
    def test_they_join_to_the_hosts_table(self, host):
        """One statement gives the host's rows with their scores, best first."""
        found = host.docs.matches(QUERY, 3)
        statement = (
            select(host.article.id, host.article.title, found.c.score)
            .join(found, found.c.id == host.article.id)
            .order_by(found.c.score.desc(), host.article.id)
        )
        entries = host.docs.similar(QUERY, 3)
        by_score = sorted(entries, key=lambda entry: (-entry.score, entry.id))
        assert [tuple(row) for row in rows_of(host.db, statement)] == [
            (entry.id, f"about {entry.id}", pytest.approx(entry.score, abs=1e-12))
            for entry in by_score
        ]

    @on_a_session
    def test_an_outer_join_keeps_what_did_not_match(self, host):
        """Articles that are not among the matches have no score."""
        found = host.docs.matches(QUERY, 2)
        statement = select(host.article.id, found.c.id, found.c.score).join_from(
            host.article, found, found.c.id == host.article.id, isouter=True
        )
        scores = {entry.id: entry.score for entry in host.docs.similar(QUERY, 2)}
        rows = rows_of(host.db, statement)
        assert {row[0]: row[1] for row in rows} == {
            key: key if key in scores else None for key in host.keys
        }
        assert {row[0]: row[2] for row in rows} == {
            key: pytest.approx(scores[key], abs=1e-12) if key in scores else None
            for key in host.keys
        }

    @on_a_session
    def test_no_rows_are_no_rows(self, host, opened):
        """An empty result is a selectable like any other, outer joins included."""
        empty = opened("empty", model=PlainModel(), key=host.article.id)
        for found in (
            host.docs.matches(QUERY, 0),
            host.docs.matches(QUERY, where={"n": 99}),
            empty.matches(QUERY),
            empty.matches_by_vector([1, 0]),
        ):
            assert found.c.keys() == ["id", "score"]
            assert rows_of(host.db, select(found)) == []
            joined = select(host.article.id).join(found, found.c.id == host.article.id)
            assert rows_of(host.db, joined) == []
            outer = select(host.article.id, found.c.score).join(
                found, found.c.id == host.article.id, isouter=True
            )
            assert {row[1] for row in rows_of(host.db, outer)} == {None}

    @on_a_session
    def test_two_of_them_in_one_statement(self, host):
        """Two searches, one as a CTE, and one twice under another name, do not mix."""
        near = host.docs.matches(QUERY, 4)
        far = select(host.docs.matches_by_vector([-1, 0], 4)).cte("far")
        both = select(near.c.id, near.c.score, far.c.score).join(far, far.c.id == near.c.id)
        nearest = {entry.id: entry.score for entry in host.docs.similar(QUERY, 4)}
        farthest = {entry.id: entry.score for entry in host.docs.similar("-1 0", 4)}
        assert {row[0]: list(row[1:]) for row in rows_of(host.db, both)} == {
            id: [pytest.approx(nearest[id], abs=1e-12), pytest.approx(farthest[id], abs=1e-12)]
            for id in nearest.keys() & farthest.keys()
        }
        again = near.alias("again")
        twice = select(near.c.id, again.c.id).join(again, again.c.id == near.c.id)
        assert {tuple(row) for row in rows_of(host.db, twice)} == {(id, id) for id in nearest}

    @on_a_session
    def test_they_filter_and_aggregate_like_a_table(self, host):
        """IN, EXISTS, functions and comparisons of scores work on the columns."""
        found = host.docs.matches(QUERY)
        good = {entry.id for entry in host.docs.similar(QUERY, min_score=0.5)}
        chosen = select(host.article.id).where(
            host.article.id.in_(select(found.c.id).where(found.c.score >= 0.5))
        )
        assert {row.id for row in rows_of(host.db, chosen)} == good
        chosen = select(host.article.id).where(
            exists().where(found.c.id == host.article.id, found.c.score * 2 >= 1)
        )
        assert {row.id for row in rows_of(host.db, chosen)} == good
        assert rows_of(host.db, select(func.count(found.c.id)))[0][0] == 6

    @on_a_session
    def test_a_key_can_be_compared_with(self, host):
        """A condition on the id takes a key of the host."""
        found = host.docs.matches(QUERY)
        key = host.keys[2]
        assert [row.id for row in rows_of(host.db, select(found).where(found.c.id == key))] == [key]
        others = rows_of(host.db, select(found.c.id).where(found.c.id.in_(host.keys[:2])))
        assert {row.id for row in others} == {*host.keys[:2]}


class TestOneStatement:
    """What a host does with a session."""

    @pytest.fixture
    def articles(self, session: Session) -> Collection[int]:
        """A collection of articles with integers for keys."""
        Base.metadata.create_all(session.connection())
        session.add_all(
            IntegerArticle(id=n, title=f"about {n}", comments=[Comment(id=n * 10)])
            for n in range(1, 51)
        )
        docs = Collection("articles", session, model=PlainModel(), key=IntegerArticle.id)
        docs.store_vectors((n, [1, n]) for n in range(1, 51))
        session.commit()
        return docs

    def test_objects_come_in_one_statement(self, session, articles):
        """Once the search is done, the host's objects take a single statement."""
        found = articles.matches("1 1", 3)
        statement = (
            select(IntegerArticle)
            .join(found, found.c.id == IntegerArticle.id)
            .order_by(found.c.score.desc())
        )
        statements: list[str] = []
        event.listen(
            session.get_bind(), "before_cursor_execute", lambda *args: statements.append(args[2])
        )
        objects = session.scalars(statement).all()
        assert [article.id for article in objects] == [1, 2, 3]
        assert [article.title for article in objects] == ["about 1", "about 2", "about 3"]
        assert len(statements) == 1

    def test_different_searches_have_different_results(self, session, articles):
        """SQLAlchemy's cache of compiled statements does not remember the rows."""
        for n in range(1, 6):
            found = articles.matches(f"1 {n}", 1)
            assert session.execute(select(found.c.id)).scalar_one() == n

    def test_aliases_and_further_joins(self, session, articles):
        """A selectable joins to an alias, and on to other tables of the host."""
        found = articles.matches("1 1", 2)
        article = aliased(IntegerArticle)
        statement = (
            select(article.title, Comment.id)
            .join(found, found.c.id == article.id)
            .join(Comment, Comment.article_id == article.id)
            .order_by(Comment.id)
        )
        assert [tuple(row) for row in session.execute(statement)] == [
            ("about 1", 10),
            ("about 2", 20),
        ]

    def test_thousands_of_matches(self, session, articles):
        """The number of matches has no limit."""
        articles.store_vectors(((n, [1, n]) for n in range(51, 5001)), batch_size=1000)
        found = articles.matches("1 1", 10_000)
        assert session.execute(select(func.count()).select_from(found)).scalar_one() == 5000
        joined = select(func.count()).join_from(
            IntegerArticle, found, found.c.id == IntegerArticle.id
        )
        assert session.execute(joined).scalar_one() == 50

    def test_pending_objects_can_be_chosen_and_joined(self, session, articles):
        """Among the host's rows are those that are not flushed yet."""
        session.add(IntegerArticle(id=1000, title="new"))
        articles.embed(1000, "1 1")
        among = select(IntegerArticle.id).where(IntegerArticle.title == "new")
        assert [entry.id for entry in articles.similar("1 0", among=among)] == [1000]
        found = articles.matches("1 0", among=among)
        statement = select(IntegerArticle.title).join(found, found.c.id == IntegerArticle.id)
        assert session.scalars(statement).all() == ["new"]

    def test_an_unknown_id_is_an_error_at_once(self, articles):
        """matches_by_id raises as similar_by_id does."""
        with pytest.raises(DoesNotExist, match="ID not found"):
            articles.matches_by_id(999)

    def test_a_key_may_be_of_another_table(self, session, articles):
        """The key is any mapped column: here a big integer, of a table without articles."""
        comments = Collection("comments", session, model=PlainModel(), key=Comment.id)
        comments.embed(10, "1 0")
        found = comments.matches("1 0")
        statement = select(Comment.article_id).join(found, found.c.id == Comment.id)
        assert session.scalars(statement).all() == [1]


class TestKeys:
    """Ids are taken and returned in the type of the host's keys, everywhere."""

    @on_a_session
    def test_entries_have_the_hosts_keys(self, host):
        """The ids of a search are equal to the host's, and of their type."""
        found = host.docs.similar(QUERY)
        assert {entry.id for entry in found} == {*host.keys[:6]}
        assert {type(entry.id) for entry in found} == {host.key_type}

    def test_every_operation_takes_and_gives_them(self, host):
        """Reading, writing and deleting name an item by the host's key."""
        docs, (first, second, *_) = host.docs, host.keys
        assert {*docs.ids()} == {*host.keys[:6]}
        assert {type(id) for id in docs.ids()} == {host.key_type}
        assert first in docs
        assert host.other not in docs
        assert docs.get(first).metadata_ == {"n": 0}
        assert docs.get(host.other) is None
        docs.set_metadata(first, {"changed": True})
        assert docs.get(first).metadata_ == {"changed": True}
        docs.embed(host.other, "1 0.1")
        docs.embed_multi([(second, "0 1")])
        docs.embed_multi_with_metadata([(second, "0 1", {"a": 1})])
        assert docs.similar(QUERY, 1)[0].id == host.other
        assert first not in {entry.id for entry in docs.similar_by_id(first)}
        assert second not in {entry.id for entry in docs.similar_by_vector([0, 1], skip_id=second)}
        assert docs.delete_items([first, second, host.other]) == 3
        assert {*docs.ids()} == {*host.keys[2:6]}

    def test_among_takes_keys_and_selects_of_them(self, host):
        """A list of keys and a SELECT of the host's column choose the same."""
        chosen = [host.keys[5], host.keys[1], host.keys[6], host.other]
        expected = {host.keys[1], host.keys[5]}
        for among in (
            chosen,
            iter(chosen),
            select(host.article.id).where(host.article.id.in_(chosen)),
            select(host.article.id).where(host.article.title.in_([f"about {k}" for k in chosen])),
            select(host.article).with_only_columns(host.article.id).filter_by(id=chosen[0]).union(
                select(host.article.id).where(host.article.id == chosen[1])
            ),
        ):  # fmt: skip
            assert {entry.id for entry in host.docs.similar(QUERY, among=among)} == expected
        by_id = host.docs.similar_by_id(host.keys[1], among=chosen)
        assert [entry.id for entry in by_id] == [host.keys[5]]

    @on_a_session
    def test_a_type_for_a_key_is_as_good_as_a_column(self, host, opened):
        """int, str or uuid.UUID in the place of the column give the same ids and matches."""
        docs = opened("articles", model=PlainModel(), key=host.key_type)
        assert docs.ids() == host.docs.ids()
        assert docs.similar(QUERY) == host.docs.similar(QUERY)
        found = docs.matches(QUERY)
        statement = select(host.article.id).join(found, found.c.id == host.article.id)
        assert {row.id for row in rows_of(host.db, statement)} == {*host.keys[:6]}
        among = select(host.article.id).where(host.article.id == host.keys[1])
        assert [entry.id for entry in docs.similar(QUERY, among=among)] == [host.keys[1]]


WRONG: dict[str, tuple[Any, list[Any]]] = {
    "int": (int, [True, False, "1", 1.0, None, b"1", uuid.UUID(int=1), (1,)]),
    "uuid": (uuid.UUID, [True, 1, str(uuid.UUID(int=1)), uuid.UUID(int=1).hex, None, b"1" * 16]),
    "str": (str, [True, False, 1.5, None, b"a", uuid.UUID(int=1), ("a",), ["a"], object()]),
}
KEY_OPERATIONS: dict[str, Callable[[Collection[Any], Any], object]] = {
    "embed": lambda docs, key: docs.embed(key, "1 0"),
    "embed_multi": lambda docs, key: docs.embed_multi([(key, "1 0")]),
    "with_metadata": lambda docs, key: docs.embed_multi_with_metadata([(key, "1 0", None)]),
    "store_vectors": lambda docs, key: docs.store_vectors([(key, [1, 0])]),
    "get": lambda docs, key: docs.get(key),
    "in": lambda docs, key: key in docs,
    "set_metadata": lambda docs, key: docs.set_metadata(key, {}),
    "delete_items": lambda docs, key: docs.delete_items([key]),
    "similar_by_id": lambda docs, key: docs.similar_by_id(key),
    "matches_by_id": lambda docs, key: docs.matches_by_id(key),
    "among": lambda docs, key: docs.similar("1 0", among=[key]),
}


class TestRefusedKeys:
    """Ids of another type are a clear error, and write nothing."""

    def test_another_type_is_refused_by_every_operation(self, session, subtests):
        """The error has the type that is expected and what was given."""
        for key, wrong in [(key, wrong) for key, many in WRONG.values() for wrong in many]:
            with subtests.test(ascii(key)[:60]):
                docs = Collection("docs", session, model=PlainModel(), key=key)
                for name, operation in KEY_OPERATIONS.items():
                    with pytest.raises(InvalidItemError, match=key.__name__) as caught:
                        operation(docs, wrong)
                    assert type(wrong).__name__ in str(caught.value), name
                assert docs.count() == 0

    @pytest.mark.parametrize("skip_id", [True, 1.5, b"a"])
    def test_skip_id_is_a_key_too(self, session, skip_id):
        """An id to leave out is checked like any other; None is none."""
        docs = Collection("docs", session, model=PlainModel())
        with pytest.raises(InvalidItemError):
            docs.similar_by_vector([1, 0], skip_id=skip_id)
        assert docs.similar_by_vector([1, 0], skip_id=None) == []

    def test_a_key_of_another_kind_is_a_type_error(self, session, subtests):
        """What is no type of keys is refused when the collection is made."""
        key: Any
        for key in [
            None,
            float,
            bool,
            bytes,
            object,
            "id",
            5,
            list[int],
            IntegerArticle,
            IntegerArticle.comments,
            Column("x", Float),
            Column("x", Boolean),
            Column("x"),
            Uuid,
            text("id"),
        ]:
            with (
                subtests.test(ascii(key)[:60]),
                pytest.raises(
                    TypeError, match=r"key must be str, int, uuid\.UUID or a mapped column"
                ),
            ):
                Collection("docs", session, model=PlainModel(), key=key)

    @pytest.mark.parametrize(
        ("key", "stored"),
        [
            (int, stored)
            for stored in ("abc", "007", "1.0", "+1", " 1", "1_0", "-0", "\u0661", "", "1e3")
        ]
        + [
            (uuid.UUID, stored)
            for stored in ("abc", str(uuid.UUID(int=10)), "A" * 32, "{" + "a" * 32 + "}", "1")
        ],
    )
    def test_a_stored_id_of_another_type_is_a_clear_error(self, session, key, stored):
        """A collection that was written with other keys says so, and never gives a wrong one."""
        docs = Collection("docs", session, model=PlainModel(), key=key)
        right = 1 if key is int else uuid.UUID(int=1)
        docs.embed(right, "0 1")
        session.execute(
            text(
                "INSERT INTO embeddings (collection_id, id, embedding) VALUES (:of, :id, :vector)"
            ),
            {"of": docs.id, "id": stored, "vector": encode([1, 0])},
        )
        for read in (
            docs.ids,
            lambda: docs.similar("1 0"),
            lambda: docs.similar_by_vector([1, 0]),
            lambda: docs.similar_by_id(right),
            lambda: session.execute(select(docs.matches("1 0"))).all(),
            lambda: session.execute(select(docs.matches_by_vector([1, 0]))).all(),
            lambda: session.execute(select(docs.matches_by_id(right))).all(),
        ):
            with pytest.raises(InvalidItemError, match=rf"{key.__name__}.*key=") as caught:
                read()
            assert repr(stored) in str(caught.value)

    def test_text_keys_read_what_any_other_wrote(self, session):
        """Under the default keys integers are their decimals and UUIDs their hex."""
        Collection("docs", session, model=PlainModel(), key=int).embed(-12, "1 0")
        identity = uuid.UUID(int=2**127 + 5)
        Collection("docs", session, model=PlainModel(), key=uuid.UUID).embed(identity, "1 0")
        assert Collection("docs", session).ids() == ["-12", identity.hex]


class Colour(str, enum.Enum):  # noqa: UP042  the two differ in what str() gives
    """An enumeration whose members are strings."""

    RED = "red"


class Size(enum.IntEnum):
    """An enumeration whose members are integers."""

    LARGE = 3


class TestTextKeys:
    """The default keys, which take integers as the documented API does."""

    def test_integers_are_accepted_and_come_back_as_strings(self, opened):
        """1 and "1" are one item."""
        docs = opened(model=PlainModel())
        docs.embed(1, "1 0")
        docs.embed_multi([(2, "0 1"), (-3, "1 1")])
        docs.store_vectors([(4, [1, 2])])
        docs.embed("1", "1 0", {"again": True})
        assert docs.ids() == ["-3", "1", "2", "4"]
        assert 2 in docs
        assert "2" in docs
        assert docs.get(1).id == "1"
        assert [entry.id for entry in docs.similar_by_id(1, 1)] == ["-3"]
        assert [entry.id for entry in docs.similar("1 0", among=[1, "2"])] == ["1", "2"]
        assert docs.delete_items([1, "2"]) == 2

    def test_matches_join_to_text_columns(self, session):
        """Integers that were stored as text join to text."""
        docs = Collection("docs", session, model=PlainModel())
        docs.embed(1, "1 0")
        found = docs.matches("1 0")
        assert isinstance(found.c.id.type, Text)
        assert [tuple(row) for row in session.execute(select(found))] == [("1", 1.0)]

    def test_a_select_of_integers_chooses_among_text_keys(self, session):
        """A host with integer keys may leave out key=, and still choose by a SELECT."""
        Base.metadata.create_all(session.connection())
        session.add_all(IntegerArticle(id=n, title="even" if n % 2 == 0 else "odd") for n in (1, 2))
        docs = Collection("docs", session, model=PlainModel())
        docs.embed_multi([(1, "1 0"), (2, "1 0")])
        among = select(IntegerArticle.id).where(IntegerArticle.title == "even")
        assert [entry.id for entry in docs.similar("1 0", among=among)] == ["2"]

    @pytest.mark.parametrize("member", [Colour.RED, Size.LARGE])
    def test_a_member_of_an_enumeration_is_its_value(self, session, member):
        """What is a string or an integer is stored as that string or integer."""
        docs = Collection("docs", session, model=PlainModel())
        docs.embed(member, "1 0")
        assert docs.ids() == [str(member.value)]
        assert member.value in docs


class TestColumnsAsKeys:
    """The type of the column decides."""

    @pytest.mark.parametrize(
        ("key", "id"),
        [
            (IntegerArticle.id, 5),
            (IntegerArticle.__table__.c.id, 5),
            (aliased(IntegerArticle).id, 5),
            (Comment.id, 2**60),
            (Comment.article_id, -5),
            (UuidArticle.id, uuid.UUID(int=5)),
            (UuidArticle.__table__.c.id, uuid.UUID(int=5)),
            (StringArticle.id, "five"),
            (StringArticle.title, "five"),
            (Column("x", Integer), 5),
        ],
        ids=shown,
    )
    def test_columns_of_every_form(self, session, key, id):
        """Mapped attributes, those of an alias and columns of a table tell the type."""
        docs = Collection("docs", session, model=PlainModel(), key=key)
        docs.embed(id, "1 0")
        assert docs.ids() == [id]
        assert [entry.id for entry in docs.similar("1 0")] == [id]
        assert [tuple(row) for row in session.execute(select(docs.matches("1 0")))] == [(id, 1.0)]

    def test_a_uuid_that_is_a_string_to_python_is_taken_and_given_as_one(self, session):
        """With Uuid(as_uuid=False) the host's keys are strings, and so are the ids."""
        Base.metadata.create_all(session.connection())
        key = str(uuid.UUID(int=2**100))
        session.add(PlainUuidArticle(id=key, title="about"))
        docs = Collection("docs", session, model=PlainModel(), key=PlainUuidArticle.id)
        docs.embed(key, "1 0")
        assert docs.ids() == [key]
        assert [entry.id for entry in docs.similar("1 0")] == [key]
        found = docs.matches("1 0", among=select(PlainUuidArticle.id))
        statement = select(PlainUuidArticle.id, found.c.id).join(
            found, found.c.id == PlainUuidArticle.id
        )
        assert [tuple(row) for row in session.execute(statement)] == [(key, key)]


@pytest.mark.parametrize("kind", HOSTS)
def test_among_many_rows_of_the_host(session: Session, kind: str):
    """However many rows a SELECT keeps, and whatever ids there are, the best of them are found."""
    article = HOSTS[kind].article
    Base.metadata.create_all(session.connection())
    count = 9_000
    keys: list[Any] = [
        {"integer": n - 100, "uuid": uuid.UUID(int=n * 2**70), "string": f"a'{n}"}[kind]
        for n in range(count)
    ]
    session.execute(
        insert(article), [{"id": key, "title": str(n % 1_000)} for n, key in enumerate(keys)]
    )
    vectors = np.random.default_rng(5).standard_normal((count, 8)).astype("f4")
    docs: Collection[Any] = Collection("many", session, model=PlainModel(), key=article.id)
    docs.store_vectors(zip(keys, vectors, strict=True), batch_size=3_000)
    # An id that no key is like; to SQLite its number would be that of a key.
    odd = {"integer": "07", "uuid": "x", "string": "A'7"}[kind]
    Collection("many", session, model=PlainModel()).store_vectors([(odd, vectors[0])])
    query = vectors[17]
    scores = vectors @ query / np.linalg.norm(vectors, axis=1)
    order = np.argsort(-scores, kind="stable").tolist()
    for least in (None, 0, 100, 500, 850, 880, 995, 1_000):
        among = select(article.id)
        if least is not None:
            among = among.where(cast(article.title, Integer) >= least)
        right = [keys[n] for n in order if least is None or n % 1_000 >= least][:10]
        for chosen in (among, among.distinct(), among.order_by(article.title.desc())):
            found = docs.similar_by_vector(query, among=chosen)
            assert [entry.id for entry in found] == right, least
        matches = docs.matches_by_vector(query, among=among)
        assert {row.id for row in session.execute(select(matches))} == {*right}
