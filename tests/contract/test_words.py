"""words=: the words of texts beside their meaning, by an index of ours or the host's own search."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, MetaData, Table, select, text
from sqlalchemy.orm import Session

import embeddings
from embeddings import (
    Chunks,
    Collection,
    EmbeddingRecord,
    IndexingError,
    InvalidQueryError,
    MissingWordsWarning,
)
from embeddings.testing import DeterministicModel
from tests.reaching import in_threads, on_both, rows_of

if TYPE_CHECKING:
    from tests.conftest import Open

TEXTS = {
    "copy": "shutil.copytree: Recursively copy a directory tree",
    "remove": "shutil.rmtree: Recursively delete a directory tree",
    "hash": "hashlib.pbkdf2_hmac: Password based key derivation",
    "list": "os.listdir: names in a directory, e.g. E_1042/X-7, 100 %",
    "time": "time.sleep: wait, and do nothing for some seconds",
}


def ids(entries: Any) -> list[str]:
    return [entry.id for entry in entries]


def words(docs: Collection[Any], question: str, **options: Any) -> list[str]:
    """Return what words alone find."""
    return ids(docs.similar("anything", words=question, weights=(0, 1), **options))


@pytest.fixture
def filled(docs: Collection[str]) -> Collection[str]:
    """A collection with a text index, made before the first item, and texts that are not stored."""
    assert docs.create_text_index() == 0
    docs.embed_multi(TEXTS.items())
    return docs


class TestTheIndex:
    """Made, filled, kept right and dropped."""

    @on_both
    def test_words_are_found_whatever_stands_around_them(self, filled):
        """Parts of a name, letter case and accents; punctuation is never syntax, nor an error."""
        assert words(filled, "copytree") == ["copy"]
        assert words(filled, "SHUTIL") == ["copy", "remove"]
        assert words(filled, "hmac?") == ["hash"]
        assert words(filled, "what is E_1042/X-7") == ["list"]
        assert words(filled, "'copytree\" AND (NOT * rmtree:") == ["copy", "remove"]
        assert words(filled, "pássword") == ["hash"]
        for nothing in ("?", "100%%%,/-.", "nowhere", "NEAR(", '"', "'", "\\", "-", "日"):
            words(filled, nothing)

    @on_both
    @pytest.mark.parametrize("language", ["simple", "cjk"])
    def test_words_of_other_alphabets(self, docs, language):
        """A text is found by its own words, whatever marks its letters have."""
        texts = ["новый ёжик", "ελληνικά", "한국어문장", "がぎぐげご", "東京都庁舎", "việt tiếng",
                 "Straße", "İstanbul", "ﬁsh", "عربية"]  # fmt: skip
        docs.create_text_index(language)
        docs.embed_multi(enumerate(texts), store=True)
        for n, content in enumerate(texts):
            for word in content.split():
                assert words(docs, word) == [str(n)]
        if language == "simple":
            docs.embed("decomposed", "cafe\u0301")
            assert words(docs, "tieng") == ["5"]
            assert words(docs, "café") == words(docs, "CAFE") == ["decomposed"]

    @on_both
    def test_what_is_ranked_first(self, docs):
        """A text with the rarer word, with more of it, and a short one: alike on both databases."""
        docs.create_text_index()
        others = " ".join(f"filler{n}" for n in range(80))
        docs.embed_multi((f"other {n}", f"common number {n} of many") for n in range(30))
        docs.embed_multi(
            [
                ("long", f"rarity {others}"),
                ("often", "rarity rarity rarity alpha beta gamma"),
                ("once", "rarity alpha beta gamma delta epsilon"),
                ("short", "rarity"),
            ]
        )
        found = words(docs, "common rarity", number=50)
        assert sorted(found[:3]) == ["often", "once", "short"]
        assert found.index("often") < found.index("once") < found.index("long")
        assert found.index("short") < found.index("once")
        assert len(found) == 34

    @on_both
    def test_words_where_no_blanks_stand_between(self, docs):
        """One letter, two and more are found, wherever they stand: best, who has most of them."""
        docs.embed("0", "会議は東京です", store=True)
        docs.create_text_index("cjk")
        texts = [
            "東京都庁舎で会議",
            "京都の寺",
            "Python入門の本",
            "ﾃﾞｰﾀ \uff21\uff22\uff23",
            "서울의 날씨",
            "วันนี้อากาศดี",
        ]
        docs.embed_multi(enumerate(texts, 1))
        assert {*words(docs, "会議")} == {"0", "1"}
        assert words(docs, "庁舎で会議") == ["1", "0"]
        assert words(docs, "寺") == ["2"]
        assert words(docs, "京都の") == ["2", "1"]
        assert words(docs, "python") == words(docs, "本") == words(docs, "入門") == ["3"]
        assert words(docs, "データ") == words(docs, "abc") == ["4"]
        assert words(docs, "날씨") == words(docs, "날씨가") == ["5"]
        assert words(docs, "อากาศ") == ["6"]
        assert words(docs, "大阪") == words(docs, "議会") == words(docs, "pyt") == []
        docs.embed("0", "another")
        assert words(docs, "会議") == ["1"]
        assert words(docs, "another") == ["0"]

    @on_both
    def test_words_that_say_little_are_not_looked_for(self, filled):
        """But where there are no others."""
        assert words(filled, "how do I wait") == ["time"]
        assert {*words(filled, "a")} == {"copy", "remove", "list"}

    @on_both
    @pytest.mark.parametrize("language", ["english", "simple", "cjk"])
    def test_a_word_of_any_length_may_be_asked_for(self, docs, language):
        """A pasted key, or a file: it is not looked for, and the others are."""
        docs.create_text_index(language)
        docs.embed_multi([*TEXTS.items(), ("long", "x" * 5_000 + " copytree"), ("λ", "λ" * 1_000)])
        docs.embed("語", "語" * 1_000)  # which is of more bytes than a word of PostgreSQL's
        assert words(docs, "x" * 5_000) == []
        assert words(docs, "λ" * 1_000) == []
        assert {*words(docs, f"{'x' * 100_000} copytree {'y' * 3_000}")} == {"copy", "long"}
        assert len(docs.similar("x" * 5_000, words=True)) == 8
        assert words(docs, "z" * 1_024) == []
        docs.embed("z", "z" * 1_024)
        assert words(docs, "z" * 1_024) == ["z"]

    @on_both
    def test_what_is_missing_is_counted_by_items(self, opened):
        """And not by their chunks."""
        docs = opened("long", chunks=Chunks(size=60))
        long = "\n\n".join(TEXTS.values())
        docs.embed_multi([("a", long), ("b", long.upper()), ("c", "short")])
        docs.embed("d", long.title(), store=True)
        assert docs.count(chunks=True) > 12
        with pytest.warns(MissingWordsWarning, match="3 items of 'long'"):
            assert docs.create_text_index() == 3
        docs.embed_multi([("a", long), ("c", "short")])
        with pytest.warns(MissingWordsWarning, match="1 item of 'long' has no words"):
            assert docs.create_text_index() == 1

    @on_both
    def test_it_is_filled_from_stored_texts_and_by_the_same_texts_again(self, docs, model):
        """What is missing is counted, warned of once, and put in without a call of the model."""
        docs.embed_multi([*TEXTS.items()][:2], store=True)
        docs.embed_multi([*TEXTS.items()][2:])
        with pytest.warns(MissingWordsWarning, match="3 items of 'docs'"):
            assert docs.create_text_index() == 3
        assert words(docs, "copytree") == ["copy"]
        assert words(docs, "password") == []
        calls = len(model.calls)
        report = docs.embed_multi(TEXTS.items())
        assert (report.unchanged, len(model.calls)) == (5, calls)
        assert words(docs, "password") == ["hash"]
        assert docs.create_text_index() == 0

    @on_both
    def test_it_follows_what_is_written_and_deleted(self, filled):
        """By this library: another text, stored or not, and none at all."""
        filled.embed("copy", "entirely different", store=True)
        assert words(filled, "copytree") == []
        assert words(filled, "different") == ["copy"]
        filled.embed("copy", "something else")
        assert words(filled, "different") == []
        assert words(filled, "something") == ["copy"]
        filled.embed("copy", "something else", {"n": 1}, store=True)
        assert words(filled, "something") == ["copy"]
        assert filled.delete_items(["copy", "hash"]) == 2
        assert words(filled, "something password derivation") == []
        filled.store_vectors([("own", filled.embed_query("x"), None, "a vector from elsewhere")])
        assert words(filled, "elsewhere") == ["own"]

    @on_both
    def test_many_at_once(self, docs):
        """By the fastest way in that the database has; also in place of what is there."""
        docs.create_text_index()
        for n in range(2):
            docs.embed_multi((i, f"number{i}x of round{n}") for i in range(600))
            assert words(docs, "number17x") == ["17"]
            assert len(docs.similar("x", 1000, words=f"round{n}", weights=(0, 1))) == 600
            assert words(docs, f"round{1 - n}") == []
        assert docs.create_text_index() == 0
        assert docs.delete_items(prefix="5") == 111
        assert len(docs.similar("x", 1000, words="round1", weights=(0, 1))) == 489

    @on_both
    def test_long_texts_and_long_words(self, filled):
        """A text of very many words, one that repeats one, and a word of very many letters."""
        filled.embed("many", " ".join(f"w{n}" for n in range(100_000)))
        filled.embed("again", "alpha " * 70_000 + "omega")
        filled.embed("letters", "y" * 100_000 + " zulu")
        assert words(filled, "w5") == ["many"]
        assert words(filled, "omega") == ["again"]
        assert words(filled, "zulu") == ["letters"]
        assert filled.create_text_index() == 0

    @on_both
    def test_others_write_and_delete(self, filled, db):
        """Plain SQL: what is gone or replaced is not found by its former words."""
        db.execute(text("DELETE FROM embeddings WHERE id = 'copy'"))
        new = {"content": "now about llamas", "hash": b"0" * 16}
        statement = "UPDATE embeddings SET content = :content, content_hash = :hash"
        db.execute(text(f"{statement} WHERE id = 'remove'"), new)
        assert words(filled, "copytree rmtree") == []
        assert filled.create_text_index() == 0
        assert words(filled, "llamas") == ["remove"]

    @on_both
    def test_it_is_part_of_the_transaction(self, filled, db):
        """Rolled back, the words are those of before; so with the index itself."""
        db.commit()
        filled.embed("copy", "another text")
        filled.delete_items(["hash"])
        db.rollback()
        assert words(filled, "copytree password") == ["copy", "hash"]
        assert words(filled, "another") == []
        assert filled.drop_text_index() is True
        db.rollback()
        assert words(filled, "copytree") == ["copy"]

    @on_both
    def test_dropped_and_made_in_another_language(self, filled, db):
        """An index has one language; without one, words= names what makes it."""
        assert Collection("nothing", db).drop_text_index() is False
        with pytest.raises(IndexingError, match=r"'english'. Call drop_text_index\(\) first"):
            filled.create_text_index("simple")
        assert filled.drop_text_index() is True
        assert filled.drop_text_index() is False
        with pytest.raises(IndexingError, match=r"call create_text_index\(\) once"):
            words(filled, "copytree")
        with pytest.warns(MissingWordsWarning):
            assert filled.create_text_index("simple") == 5
        with pytest.raises(InvalidQueryError, match="language must be one of 'simple'"):
            filled.create_text_index("klingon")

    @on_both
    def test_other_forms_of_a_word_are_found_in_english(self, docs):
        """Of words of four letters and more; shorter ones are not the beginning of just any."""
        docs.create_text_index()
        docs.embed_multi(
            [
                ("day", "a day in June"),
                ("days", "ten days"),
                ("keyboard", "a keyboard"),
                ("directory", "a directory"),
                ("gas", "gas"),
            ]
        )
        assert {*words(docs, "days")} == {"day", "days"}
        assert words(docs, "directories") == ["directory"]
        assert words(docs, "keys") == words(docs, "key") == []
        assert words(docs, "gas") == ["gas"]

    @on_both
    def test_each_collection_has_its_own(self, filled, opened: Open):
        """And a collection that is deleted takes its index along."""
        other = opened("other")
        other.create_text_index("cjk")
        other.embed_multi(
            [("a", "如何复制整个文件夹"), ("b", "删除一个数据库"), ("copy", "copytree")]
        )
        assert words(other, "怎样复制整个目录") == ["a"]
        assert words(filled, "copytree") == ["copy"]
        assert words(other, "copytree") == ["copy"]
        other.delete()
        assert words(filled, "copytree") == ["copy"]
        again = opened("other")
        again.embed("x", "copytree")
        with pytest.raises(IndexingError, match="'other' has no text index"):
            words(again, "copytree")

    def test_vacuum_changes_nothing(self, engine: Engine, model):
        """SQLite renumbers the rows of a table without an INTEGER PRIMARY KEY."""
        docs = Collection("docs", engine, model=model)
        docs.create_text_index()
        docs.embed_multi(TEXTS.items())
        docs.delete_items(["copy"])
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM"))
        assert words(docs, "rmtree") == ["remove"]
        docs.embed("remove", "now something else")
        assert words(docs, "rmtree") == []

    @on_both
    def test_it_goes_with_the_tables(self, filled, db):
        """`uninstall` leaves nothing of it, and a host's autogenerate does not see it."""
        connection = db.connection()
        names = {
            name
            for (name,) in rows_of(
                db,
                "SELECT name FROM sqlite_master WHERE type = 'table'"
                if connection.dialect.name == "sqlite"
                else "SELECT table_name FROM information_schema.tables",
            )
            if name.startswith("embeddings_words")
        }
        for name in names:
            assert not embeddings.include_object(Table(name, MetaData()), name, "table", True, None)
        embeddings.uninstall(connection)
        if connection.dialect.name == "sqlite":
            left = rows_of(db, "SELECT name FROM sqlite_master WHERE name LIKE '%words%'")
            assert left == []
        db.rollback()


def test_it_is_made_and_dropped_while_others_write(postgresql_engine: Engine, model):
    """On PostgreSQL a writer is waited for that began before, and knew of no index, or of one."""
    docs = Collection("docs", postgresql_engine, model=model)
    docs.embed("first", "text", store=True)

    def while_another_writes(id: str, change: Any) -> None:
        with ThreadPoolExecutor(1) as pool, Session(postgresql_engine) as session:
            Collection("docs", session, model=model).embed(id, f"kiwi {id}", store=True)
            changing = pool.submit(change)
            with postgresql_engine.connect() as watching:
                blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                while not watching.scalar(blocked) and not changing.done():
                    watching.rollback()
            session.commit()
            changing.result()

    while_another_writes("a", docs.create_text_index)
    assert words(docs, "kiwi") == ["a"]
    while_another_writes("b", docs.drop_text_index)
    left = "SELECT id FROM embeddings WHERE search_words IS NOT NULL"
    with postgresql_engine.connect() as connection:
        assert connection.execute(text(left)).all() == []


class TestTheSearch:
    """Two rankings made one."""

    @on_both
    def test_the_ranks_are_fused(self, filled):
        """By 1 / (60 + rank), weighed; the score stays the cosine; an entry tells both ranks."""
        question = "delete a directory with copytree"
        near = filled.similar(question)
        found = words(filled, question)
        cosine = {entry.id: entry.score for entry in near}
        at = {id: n for n, id in enumerate(cosine, 1)}
        for weights in ((1, 1), (3, 1), (0.5, 2)):
            ranks = {id: (n, found.index(id) + 1 if id in found else None) for id, n in at.items()}

            def fused_score(id: str, ranks: Any = ranks, weights: Any = weights) -> Any:
                return sum(
                    weight / (60 + rank)
                    for weight, rank in zip(weights, ranks[id], strict=True)
                    if rank
                )

            expected = sorted(ranks, key=lambda each: (-fused_score(each), each))
            fused = filled.similar(question, words=True, weights=weights)
            assert ids(fused) == expected
            assert {entry.id: entry.ranks for entry in fused} == ranks
            assert {entry.id: entry.score for entry in fused} == pytest.approx(cosine)
        assert near[0].ranks is None

    @on_both
    def test_every_condition_holds_in_both_rankings(self, filled, db):
        """Filters, prefix, among, min_score, offset and number; and results are not short."""
        question = {"words": "directory tree wait password", "number": 10}
        everything = filled.similar("wait", **question)
        assert len(everything) == 5
        for n in range(5):
            assert ids(filled.similar("wait", words=question["words"], number=1, offset=n)) == [
                everything[n].id
            ]
        assert {*ids(filled.similar("wait", prefix="l", **question))} == {"list"}
        assert {*ids(filled.similar("wait", among=["copy", "time"], **question))} == {
            "copy",
            "time",
        }
        filled.set_metadata("copy", {"n": 1})
        assert ids(filled.similar("wait", where={"n": 1}, **question)) == ["copy"]
        assert words(filled, "directory", where={"n": {"$exists": False}}, number=1) != ["copy"]
        least = everything[0].score
        above = filled.similar("wait", min_score=least, **question)
        assert {*ids(above)} == {e.id for e in everything if e.score >= least}
        assert ids(filled.similar_by_id("copy", words="tree", weights=(0, 1))) == ["remove"]

    @on_both
    @pytest.mark.parametrize("name", ["near", "nearest", "found", "best", "hits", "counts", "keys"])
    def test_the_hosts_ctes_have_any_name(self, filled, name):
        """A SELECT of keys with a CTE of the host's is a part of the statement as it is."""
        chosen = select(EmbeddingRecord.id).where(
            EmbeddingRecord.collection_id == filled.id, EmbeddingRecord.id.in_(["copy", "time"])
        )
        among = select(chosen.cte(name).c.id)
        assert {*ids(filled.similar("wait", among=among, words="tree"))} == {"copy", "time"}
        assert ids(filled.similar("wait", among=among, words=among, weights=(0, 1), number=1))

    @on_both
    def test_a_search_with_nothing_to_find(self, filled, docs):
        """Words that nobody has leave the vectors' ranking; a blank question finds nothing."""
        assert ids(filled.similar("wait", words="zzz")) == ids(filled.similar("wait"))
        assert filled.similar("wait", words="zzz")[0].ranks == (1, None)
        assert filled.similar(" ", words=True) == []
        assert filled.similar("wait", words=True, number=0) == []
        assert len(filled.similar("wait", words=True, number=10**20)) == 5

    @on_both
    def test_many_questions_at_once(self, filled):
        """Each by its own words."""
        found = filled.similar_multi(["copytree", "sleep"], 1, words=True, weights=(0, 1))
        assert [ids(entries) for entries in found] == [["copy"], ["time"]]

    @on_both
    def test_a_hosts_own_ranking(self, docs, db):
        """A SELECT of keys, best first, with no index of ours, on any database."""
        docs.embed_multi(TEXTS.items())
        ranked = (
            select(EmbeddingRecord.id)
            .where(
                EmbeddingRecord.collection_id == docs.id,
                EmbeddingRecord.id.in_(["time", "hash", "nobody"]),
            )
            .order_by(EmbeddingRecord.id.desc())
        )
        found = docs.similar("directory", words=ranked, weights=(0, 1))
        assert [(entry.id, entry.ranks) for entry in found] == [
            ("time", (None, 1)),
            ("hash", (None, 2)),
        ]
        assert ids(docs.similar("directory", words=ranked, weights=(0, 1), prefix="h")) == ["hash"]
        assert len(docs.similar("directory", words=ranked)) == 5

    @on_both
    def test_pages_fit_together_however_deep(self, docs, db):
        """What stands where, and with which ranks, does not depend on how much is asked for."""
        docs.create_text_index()
        docs.embed_multi((f"{n:03}", "a copy " * (1 + n % 7) + f"of tree {n}") for n in range(300))
        whole = docs.similar("copy tree", 300, words=True)
        assert len({*ids(whole)}) == 300
        pages = [docs.similar("copy tree", 45, words=True, offset=n) for n in range(0, 300, 45)]
        found = [(entry.id, entry.ranks) for page in pages for entry in page]
        assert found == [(entry.id, entry.ranks) for entry in whole]
        deep = docs.matches("copy tree", 45, words=True, offset=180)
        rows = db.execute(select(deep.c.id).order_by(deep.c.rank)).scalars()
        assert [*rows] == ids(pages[4])

    @on_both
    def test_matches_have_a_rank(self, filled, db: Session):
        """After the score, and only with words; so a host orders by it."""
        question = "delete a directory with copytree"
        fused = filled.similar(question, 3, words=True, offset=1)
        found = filled.matches(question, 3, words=True, offset=1)
        assert [*found.c.keys()] == ["id", "score", "rank"]
        statement = (
            select(EmbeddingRecord.id, found.c.score, found.c.rank)
            .join(found, found.c.id == EmbeddingRecord.id)
            .order_by(found.c.rank)
        )
        rows = db.execute(statement).all()
        assert [row.id for row in rows] == ids(fused)
        assert [row.rank for row in rows] == [2, 3, 4]
        assert [row.score for row in rows] == pytest.approx([entry.score for entry in fused])
        assert [*filled.matches(question).c.keys()] == ["id", "score"]
        assert [*filled.matches(" ", words=True).c.keys()] == ["id", "score", "rank"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a number": ({"words": 3}, "words must be True, a text or a SELECT"),
    "blank": ({"words": "  "}, "words is empty"),
    "two columns": (
        {"words": select(EmbeddingRecord.id, EmbeddingRecord.content)},
        "words must select the keys and nothing else",
    ),
    "three weights": ({"words": True, "weights": (1, 1, 1)}, "weights must be two numbers"),
    "below zero": ({"words": True, "weights": (1, -1)}, "weights must be two numbers"),
    "nothing": ({"words": True, "weights": (0, 0)}, "weights must be two numbers"),
    "alone": ({"weights": (1, 1)}, "weights= is about words="),
}


@pytest.mark.parametrize(("options", "says"), WRONG.values(), ids=[*WRONG])
def test_what_means_nothing_is_refused(engine: Engine, options: dict[str, Any], says: str):
    """Before the model is called."""
    model = DeterministicModel()
    docs = Collection("docs", engine, model=model)
    docs.embed("a", "text")
    with pytest.raises(InvalidQueryError, match=says):
        docs.similar("hound", **options)
    assert len(model.calls) == 1


def test_what_has_no_words_is_refused(engine: Engine):
    """A vector, an id, bytes; and a collection without a text index, before money is spent."""
    model = DeterministicModel(supports_binary=True)
    docs = Collection("docs", engine, model=model)
    docs.embed("a", "text")
    with pytest.raises(InvalidQueryError, match="words=True is about the words of a value"):
        docs.similar_by_id("a", words=True)
    with pytest.raises(InvalidQueryError, match="words=True is about the words of a value"):
        docs.matches_by_vector([1.0], words=True)
    with pytest.raises(InvalidQueryError, match="bytes have none"):
        docs.similar(b"bytes", words=True)
    with pytest.raises(IndexingError, match=r"'docs' has no text index.*create_text_index\(\)"):
        docs.similar("text", words=True)
    with pytest.raises(TypeError, match="use words="):
        docs.similar("text", hybrid=True)  # type: ignore[call-arg]
    assert len(model.calls) == 1
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        docs.create_text_index()
    docs.embed_multi([("a", "text")])
    docs.embed_multi([("bytes", b"bytes")], store=True)
    assert docs.create_text_index() == 0  # bytes have no words


def test_two_sessions_make_it_at_once(postgresql_engine: Engine):
    """On PostgreSQL, where they lock a row: one waits for the other, and none fails."""
    for name in ("one", "two", "three", "four"):
        Collection(name, postgresql_engine, model_id="deterministic").store_vectors(
            [("a", [1.0, 2.0], None, "a text")]
        )

        def make(_: int, name: str = name) -> None:
            with Session(postgresql_engine) as session:
                assert Collection(name, session).create_text_index() == 0
                session.commit()

        in_threads(make, 4)


@pytest.mark.parametrize("db", ["engine", "postgresql_engine"])
def test_a_text_that_others_have_changed(db: str, request: pytest.FixtureRequest):
    """It is not found by its old words where its hash is another, and then by its new ones."""
    engine: Engine = request.getfixturevalue(db)
    docs = Collection("changed", engine, model=DeterministicModel())
    docs.embed_multi([(id, f"hound {id}") for id in "abc"], store=True)
    docs.create_text_index("english")
    hashes = {"a": None, "b": docs.content_hash("zebra")}
    with engine.begin() as connection:
        for id, hashed in hashes.items():
            connection.execute(
                text(
                    "UPDATE embeddings SET content = 'zebra', content_hash = :hash WHERE id = :id"
                ),
                {"hash": hashed, "id": id},
            )

    def found(word: str) -> list[str]:
        return sorted(entry.id for entry in docs.similar(word, words=True, weights=(0, 1)))

    assert found("hound") == ["c"]
    assert docs.create_text_index("english") == 0
    assert "b" in found("zebra")
