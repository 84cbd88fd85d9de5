"""Long texts in chunks: an item is one thing to its user, whatever it is stored as."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import literal, select, text, union_all

import embeddings
from embeddings import Chunks, ChunksMismatchError, Collection, InvalidItemError
from embeddings.testing import DeterministicModel
from tests.reaching import in_threads, not_on_citus, on_both, rows_of

if TYPE_CHECKING:
    from tests.conftest import Open

WORDS = [
    "river",
    "stone",
    "cloud",
    "table",
    "garden",
    "music",
    "window",
    "number",
    "paper",
    "engine",
    "silver",
    "forest",
]


def sentence(rng: random.Random) -> str:
    words = [f"{rng.choice(WORDS)}{rng.randrange(1000)}" for _ in range(rng.randint(5, 12))]
    return " ".join(words).capitalize() + "."


def paragraph(rng: random.Random) -> str:
    return " ".join(sentence(rng) for _ in range(rng.randint(1, 4)))


def long_text(seed: int, paragraphs: int = 12) -> str:
    rng = random.Random(seed)  # noqa: S311  no secret
    return "\n\n".join(paragraph(rng) for _ in range(paragraphs))


def embedded(model: DeterministicModel) -> list[Any]:
    """Return what the model was given since it was last asked."""
    given = [item for call in model.calls for item in call]
    model.calls.clear()
    return given


@pytest.fixture
def docs(opened: Open) -> Collection[str]:
    return opened("docs", chunks=Chunks(size=200))


def as_pairs(docs: Collection[Any]) -> list[tuple[int, str | None]]:
    return [(chunk.number, chunk.text) for chunk in docs.get_chunks("long")]


class TestAnItem:
    """Is written, read and deleted by its own id."""

    def test_it_is_one_thing_to_its_user(self, docs, db):
        """Counts, ids, membership, its record and iteration are about items."""
        text_ = long_text(1)
        report = docs.embed_multi_with_metadata(
            [("long", text_, {"n": 1}), ("short", "a short one", None), ("a#7", "odd id", None)],
            store=True,
        )
        assert (report.embedded, report.unchanged) == (3, 0)
        assert docs.count() == len(docs) == 3
        assert sorted(docs.ids()) == ["a#7", "long", "short"]
        assert docs.ids(prefix="lo") == ["long"]
        assert docs.ids(prefix="a#") == ["a#7"]
        assert "long" in docs
        assert "long#0" not in docs
        chunks = docs.get_chunks("long")
        assert docs.count(chunks=True) == len(chunks) + 2 > 8
        assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
        assert all(chunk.text == text_[chunk.start : chunk.end] for chunk in chunks)
        assert all(len(chunk.text) <= 200 for chunk in chunks)
        record = docs.get("long")
        assert (record.id, record.key, record.content) == ("long", "long", text_)
        assert record.metadata_ == {"n": 1}
        assert record.content_hash == Collection.content_hash(text_)
        assert record.embedding is None
        assert record.collection.name == "docs"
        short = docs.get("short")
        assert (short.content, short.embedding.shape) == ("a short one", (256,))
        assert docs.get("none") is None
        assert docs.get_chunks("none") == []
        assert {each.id: each.content for each in docs}["long"] == text_
        assert [each and each.id for each in docs.get_many(["short", "none", "long"])] == [
            "short",
            None,
            "long",
        ]
        stored = {id for (id,) in rows_of(db, "SELECT id FROM embeddings")}
        assert {"short#0", "a#7#0", "long#0", "long#1"} <= stored

    def test_deleting_and_describing_it(self, docs):
        """delete_items counts items; set_metadata is the item's."""
        docs.embed_multi(
            [("a", long_text(1)), ("a#1", long_text(2)), ("b", long_text(3)), ("c", "short")]
        )
        docs.set_metadata("a", {"kept": True})
        assert docs.get("a").metadata_ == {"kept": True}
        assert docs.get("a#1").metadata_ is None
        with pytest.raises(docs.DoesNotExist):
            docs.set_metadata("a#0", None)
        assert docs.delete_items(["a#1", "none"]) == 1
        assert sorted(docs.ids()) == ["a", "b", "c"]
        assert docs.delete_items(where={"kept": True}) == 1
        assert docs.delete_items(prefix="b") == 1
        assert docs.count(chunks=True) == 1
        assert docs.delete_items(["c"]) == 1
        assert docs.count(chunks=True) == 0

    @on_both
    def test_keys_of_the_host(self, opened, model):
        """Ids are those of the host's type."""
        docs = opened("docs", model=model, key=int, chunks=Chunks(size=200))
        docs.embed_multi([(7, long_text(1)), (12, "short")])
        assert sorted(docs.ids()) == [7, 12]
        assert docs.get(7).key == 7
        assert docs.delete_items([7]) == 1

    @on_both
    def test_bytes_are_one_chunk(self, opened):
        """And come back whole."""
        from embeddings.testing import DeterministicModel

        binary = DeterministicModel(supports_binary=True)
        docs = opened("docs", model=binary, chunks=Chunks(size=20))
        docs.embed("b", b"\x01" * 100, store=True)
        assert docs.get("b").content_blob == b"\x01" * 100
        assert [(chunk.number, chunk.start) for chunk in docs.get_chunks("b")] == [(0, None)]


class TestWhatIsEmbedded:
    """Only chunks whose text is new to the collection."""

    @on_both
    def test_a_text_that_fits_costs_one(self, docs, model):
        """As it is, with its blanks: its hash is that of the whole."""
        docs.embed("a", " short text \n")
        assert embedded(model) == [" short text \n"]

    @pytest.mark.parametrize("overlap", [0, 40])
    @on_both
    def test_an_edit_costs_little(self, opened, model, overlap):
        """One sentence more in one of sixty paragraphs: at most 2 chunks on average."""
        docs = opened("docs", chunks=Chunks(size=300, overlap=overlap))
        rng = random.Random(5)  # noqa: S311  no secret
        paragraphs = [paragraph(rng) for _ in range(60)]
        docs.embed("long", "\n\n".join(paragraphs))
        embedded(model)
        costs = []
        for at in rng.sample(range(60), 12):
            before = paragraphs[at].split(". ")
            before.insert(rng.randrange(len(before) + 1), sentence(rng).rstrip("."))
            paragraphs[at] = ". ".join(before)
            docs.embed("long", "\n\n".join(paragraphs))
            costs.append(len(embedded(model)))
        assert sum(costs) / len(costs) <= 2

    def test_the_same_again_costs_nothing(self, docs, model):
        """Neither does another item of the same text, nor one that lost a part."""
        text_ = long_text(1)
        docs.embed("long", text_, {"n": 1}, store=True)
        count = len(embedded(model))
        assert count == docs.count(chunks=True)
        report = docs.embed_multi([("long", text_), ("twin", text_)])
        assert (report.embedded, report.reused, report.unchanged) == (0, 1, 1)
        assert docs.get("long").metadata_ == {"n": 1}
        assert docs.get("twin").content is None
        shorter = text_.rpartition("\n\n")[0]
        docs.embed("long", shorter, store=True)
        assert len(embedded(model)) <= 1
        assert docs.get("long").content == shorter
        assert docs.get("long").metadata_ is None  # other content replaces it as a whole
        chunks = docs.get_chunks("long")
        assert all(chunk.text == shorter[chunk.start : chunk.end] for chunk in chunks)
        assert len(chunks) < count

    @on_both
    def test_metadata_and_contents_come_later(self, docs, model):
        """Given with the same text they are taken in; the model is not called."""
        text_ = long_text(1)
        docs.embed("long", text_)
        embedded(model)
        docs.embed("long", text_, {"later": 1})
        assert docs.get("long").metadata_ == {"later": 1}
        docs.embed("long", text_, store=True)
        assert docs.get("long").content == text_
        assert docs.get("long").metadata_ == {"later": 1}
        assert all(chunk.text for chunk in docs.get_chunks("long"))
        assert embedded(model) == []

    @on_both
    def test_a_plan(self, docs, model):
        """Counts items; one that another writer changed meanwhile is left alone, as a whole."""
        one, other = long_text(1), long_text(2)
        docs.embed("b", one)
        embedded(model)
        plan = docs.plan([("a", one), ("b", one), ("c", other)])
        assert (plan.new, plan.reusable, plan.unchanged) == (["c"], ["a"], ["b"])
        assert len(plan.contents) > 1
        assert plan.embed().embedded == 1
        docs.embed("a", other + "\n\n" + "And more of it.")
        report = docs.apply(plan)
        assert [id for id, _ in report.skipped] == ["a"]
        assert docs.get("a").content_hash == Collection.content_hash(other + "\n\nAnd more of it.")
        assert docs.get("c").content_hash == Collection.content_hash(other)

    @on_both
    def test_what_others_delete_comes_back(self, docs, model, db):
        """A row that another program took away is written again, with the item's metadata."""
        text_ = long_text(1)
        docs.embed("long", text_, {"n": 1}, store=True)
        embedded(model)
        with_sql(db, "DELETE FROM embeddings WHERE id = 'long#3'")
        docs.embed("long", text_)
        assert len(embedded(model)) == 1
        chunks = docs.get_chunks("long")
        assert all(chunk.text == text_[chunk.start : chunk.end] for chunk in chunks)
        assert docs.delete_items(where={"n": 1}) == 1
        assert docs.count(chunks=True) == 0


def with_sql(db: Any, statement: str) -> None:
    from tests.reaching import connection_to

    with connection_to(db) as connection:
        connection.execute(text(statement))


def by_lines(text_: str) -> list[tuple[int, int]]:
    """Return the places of lines: a splitter of the host's."""
    found, at = [], 0
    for line in text_.splitlines(keepends=True):
        if line.strip():
            found.append((at, at + len(line.rstrip("\n"))))
        at += len(line)
    return found


class TestTheSetting:
    """Is kept with the collection."""

    def test_it_need_not_be_given_again(self, docs, opened, model):
        """To write by another one is an error that says what to do; an empty collection takes it.

        Reading and deleting need not agree.
        """
        docs.embed("long", long_text(1))
        again = opened("docs")
        again.embed("more", long_text(2))
        assert again.count() == 2
        assert again.count(chunks=True) > 10
        other = opened("other")
        other.embed("a", "text")
        for name in ("docs", "other"):
            for method, given in (
                ("embed", ("x", "text")),
                ("embed_multi", ([("x", "text")],)),
                ("embed_multi", ([],)),
                ("prepare", ("text",)),
            ):
                with pytest.raises(ChunksMismatchError, match="new collection"):
                    getattr(opened(name, chunks=Chunks(size=99)), method)(*given)
        assert opened("other", chunks=Chunks(size=99)).get("a").id == "a"
        smaller = opened("docs", chunks=Chunks(size=60))
        assert smaller.count(chunks=True) == docs.count(chunks=True)
        assert smaller.get_chunks("long") == docs.get_chunks("long")
        found = [
            [(each.id, each.chunk) for each in one.similar(long_text(1))] for one in (docs, smaller)
        ]
        assert found[0] == found[1]
        assert [each.id for each in smaller.similar_by_id("long")] == ["more"]
        smaller.delete_items(smaller.ids())
        smaller.embed("long", long_text(1))
        assert all(chunk.end - chunk.start <= 60 for chunk in smaller.get_chunks("long"))

    @on_both
    def test_a_function_is_kept_by_its_name(self, opened, model):
        """Reading needs it no more, writing does."""
        docs = opened("docs", chunks=Chunks(splitter=by_lines))
        docs.embed("a", "one line\n\n  two lines\nthree", store=True)
        assert [chunk.text for chunk in docs.get_chunks("a")] == [
            "one line",
            "  two lines",
            "three",
        ]
        again = opened("docs")
        assert again.get("a").content == "one line\n\n  two lines\nthree"
        with pytest.raises(ChunksMismatchError, match=r"splitter=.*by_lines"):
            again.embed("b", "text")
        opened("docs", chunks=Chunks(splitter=by_lines)).embed("b", "text")

        def backwards(text):
            return [(3, 1)]

        broken = opened("bad", chunks=Chunks(splitter=backwards))
        with pytest.raises(InvalidItemError, match=r"'b'.*\(3, 1\)"):
            broken.embed("b", "some text")
        assert broken.count() == 0

    @on_both
    def test_it_goes_with_the_collection(self, docs, opened, model):
        """A new collection of the name has none; a renamed one keeps it."""
        docs.embed("long", long_text(1))
        docs.rename("renamed")
        assert docs.count(chunks=True) > docs.count() == 1
        docs.delete()
        plain = opened("docs")
        plain.embed("long", long_text(1), store=True)
        assert plain.get("long").embedding is not None
        assert [chunk.text for chunk in plain.get_chunks("long")] == [long_text(1)]

    @on_both
    def test_one_vector_for_an_item_is_refused(self, docs):
        """It says what to use."""
        with pytest.raises(InvalidItemError, match="embed_multi"):
            docs.store_vectors([("a", [1.0, 2.0])])


@not_on_citus("the coordinator counts no rows of other servers")
@pytest.mark.parametrize("db", ["postgresql_session"], indirect=True)
@pytest.mark.parametrize("texts", [1, 20])
def test_a_row_is_written_once(opened, db, texts):
    """On PostgreSQL what is kept of a chunk is in its row, by INSERT, and by COPY of many.

    A second write would leave a dead row for each.
    """
    docs = opened("docs", chunks=Chunks(size=200))
    written = text(
        "SELECT sum(n_tup_ins), sum(n_tup_upd) FROM pg_stat_xact_user_tables "
        "WHERE relname = 'embeddings'"
    )
    before = db.execute(written).one()  # the connection may have been used by others
    docs.embed_multi([(str(n), long_text(n)) for n in range(texts)], store=True)
    docs.embed("0", long_text(99), store=True)
    new, changed = (n - m for n, m in zip(db.execute(written).one(), before, strict=True))
    assert new >= docs.count(chunks=True) > 10 * texts
    assert changed <= len(docs.get_chunks("0"))  # those of the text before, replaced
    assert docs.get("0").content == long_text(99)
    assert next(chunk.start for chunk in docs.get_chunks("0")) == 0


class TestPrepared:
    """A text whose chunks are embedded before the transaction begins."""

    def test_it_is_stored_without_the_model(self, docs, model):
        prepared = docs.prepare(long_text(3))
        made = embedded(model)
        assert prepared.content == long_text(3)
        assert list(prepared.chunks) == made
        assert len(made) > 5
        docs.embed("long", prepared, {"n": 1}, store=True)
        docs.embed("short", docs.prepare("One short text."))
        assert embedded(model) == ["One short text."]
        assert [chunk.text for chunk in docs.get_chunks("long")] == made
        assert docs.get("long").content == long_text(3)
        assert docs.similar(made[-1], 1)[0].chunk.number == len(made) - 1

    def test_only_new_chunks_are_embedded(self, docs, model):
        docs.embed("long", long_text(3))
        embedded(model)
        prepared = docs.prepare(long_text(3) + "\n\nOne more paragraph stands at the end.")
        assert len(embedded(model)) == 1
        docs.embed("long", prepared)
        assert embedded(model) == []
        assert docs.count() == 1
        again = docs.prepare("One more paragraph stands at the end.")
        assert (again.chunks, embedded(model)) == ({}, [])

    @on_both
    def test_a_text_that_was_cut_otherwise_is_refused(self, docs, opened, model):
        """The model is not called in its place."""
        plain = opened("plain")
        prepared, whole = docs.prepare(long_text(3)), plain.prepare(long_text(3))
        embedded(model)
        for collection, given in ((plain, prepared), (docs, whole)):
            with pytest.raises(ChunksMismatchError, match=r"'long'.*prepare\(\)"):
                collection.embed("long", given)
        assert (embedded(model), docs.count(), plain.count()) == ([], 0, 0)


def test_chunks_are_checked():
    """What cannot be a setting is refused at once."""
    for options in ({"size": 0}, {"size": 10, "overlap": 6}, {"overlap": -1}, {"splitter": "no"}):
        with pytest.raises(ValueError, match="must be"):
            Chunks(**options)
    for options in ({"size": "9"}, {"length": 3}, {"splitter": 3}):
        with pytest.raises(TypeError, match="must be"):
            Chunks(**options)
    nameless: Any
    for nameless in (lambda text: len(text.split()), partial(str.count, "x")):
        for name in ("length", "splitter"):
            with pytest.raises(TypeError, match=f"{name} must be a function that has a name"):
                Chunks(**{name: nameless})
    with pytest.raises(TypeError, match="chunks must be"):
        Collection("docs", chunks=300, model_id="local")  # type: ignore[arg-type]


def best_by_hand(
    texts: dict[str, str], chunks: Chunks, question: str, skip: str | None = None
) -> list[tuple[str, float]]:
    """Return the items by the best of their chunks, as a plain program finds them."""
    model = DeterministicModel()
    [sought] = model.embed_batch([question])
    scores = []
    for id, text_ in texts.items():
        vectors = model.embed_batch([text_[start:end] for start, end in chunks.spans(text_)])
        best = max(embeddings.cosine_similarity(sought, vector) for vector in vectors)
        scores.append((id, float(best)))
    return sorted(
        (pair for pair in scores if pair[0] != skip), key=lambda pair: (-pair[1], pair[0])
    )


class TestSearching:
    """Each item once, by its best chunk, never short."""

    @pytest.fixture
    def texts(self) -> dict[str, str]:
        texts = {f"t{number}": long_text(number, 20) for number in range(30)}
        texts |= {f"s{number}": long_text(1000 + number, 1) for number in range(10)}
        return texts | {"t3#2": long_text(99, 30), "t3!": long_text(98, 3)}

    @pytest.fixture
    def filled(self, docs, texts, model):
        docs.embed_multi_with_metadata(
            [(id, text_, {"even": id[-1] in "02468"}) for id, text_ in texts.items()], store=True
        )
        model.calls.clear()
        return docs

    @staticmethod
    def check(entries: Any, expected: list[tuple[str, float]]) -> None:
        assert [entry.id for entry in entries] == [id for id, _ in expected]
        scores = [score for _, score in expected]
        assert [entry.score for entry in entries] == pytest.approx(scores, abs=1e-5)

    @on_both
    def test_as_a_plain_program_finds_them(self, filled, texts):
        """At any number and offset, with each filter; entries have the chunk and the text."""
        question = " ".join(long_text(3, 1).split()[:6])
        expected = best_by_hand(texts, Chunks(size=200), question)
        for number, offset in ((1, 0), (10, 0), (7, 9), (100, 0), (100, 35), (5, 100), (0, 0)):
            found = filled.similar(question, number, offset=offset)
            self.check(found, expected[offset : offset + number])
            assert found.exact
        for entry in filled.similar(question, 50):
            chunk, text_ = entry.chunk, texts[entry.id]
            assert entry.content == text_
            assert chunk.text == text_[chunk.start : chunk.end]
            assert filled.get_chunks(entry.id)[chunk.number] == chunk
            assert entry.metadata == {"even": entry.id[-1] in "02468"}
        even = [pair for pair in expected if pair[0][-1] in "02468"]
        self.check(filled.similar(question, 9, where={"even": True}), even[:9])
        among = ["t3#2", "s1", "t3", "t3!"]
        self.check(
            filled.similar(question, among=among), [pair for pair in expected if pair[0] in among]
        )
        for prefix in ("t3", "t3#", "t3#2", "s"):
            those = [pair for pair in expected if pair[0].startswith(prefix)]
            self.check(filled.similar(question, 50, prefix), those)
        least = expected[4][1]
        self.check(filled.similar(question, 50, min_score=least - 1e-5), expected[:5])
        multi = filled.similar_multi([question, texts["s4"]], 3)
        self.check(multi[0], expected[:3])
        assert multi[1][0].id == "s4"

    @on_both
    def test_as_a_selectable(self, filled, texts):
        """Matches has the items' ids."""
        question = " ".join(long_text(3, 1).split()[:6])
        expected = best_by_hand(texts, Chunks(size=200), question)[2:8]
        found = filled.matches(question, 6, offset=2)
        with filled.reference.work() as work:
            rows = work.run(select(found.c.id, found.c.score).order_by(found.c.score.desc())).all()
        assert [row.id for row in rows] == [id for id, _ in expected]

    @on_both
    def test_what_is_like_a_long_item(self, filled, texts):
        """All its chunks are looked for, and the item is left out."""
        filled.embed("part", texts["t7"].split("\n\n")[14])
        filled.embed("other part", texts["t7"].split("\n\n")[2])
        found = filled.similar_by_id("t7", 5)
        assert {entry.id for entry in found[:2]} == {"part", "other part"}
        assert "t7" not in {entry.id for entry in filled.similar_by_id("t7", 100)}
        assert len(filled.similar_by_id("t7", 100)) == len(texts) + 1
        with filled.reference.work() as work:
            matches = filled.matches_by_id("t7", 2)
            assert {row.id for row in work.run(select(matches.c.id))} == {"part", "other part"}
        vector = filled.embed_query(texts["s5"])
        assert filled.similar_by_vector(vector, 1, skip_id="s5")[0].id != "s5"

    @on_both
    def test_what_is_like_a_very_long_item(self, filled, texts):
        """However many chunks it has, the nearest of them counts."""
        long = "\n\n".join(texts[f"t{number}"] for number in range(6))
        filled.embed("longest", long)
        chunks = filled.get_chunks("longest")
        assert len(chunks) > 50
        filled.embed("part", long[chunks[40].start : chunks[40].end])
        expected = {f"t{number}" for number in range(6)} | {"part"}
        found = filled.similar_by_id("longest", 7)
        assert {entry.id for entry in found} == expected
        assert [entry.score for entry in found] == pytest.approx([1.0] * 7, abs=1e-5)
        assert len(filled.similar_by_id("longest", 100)) == len(texts) + 1
        with filled.reference.work() as work:
            matches = filled.matches_by_id("longest", 7)
            assert {row.id for row in work.run(select(matches.c.id))} == expected

    @on_both
    def test_among_keys_of_the_host(self, opened):
        """A SELECT of integers is compared with the items."""
        docs = opened("docs", key=int, chunks=Chunks(size=200))
        docs.embed_multi([(number, long_text(number)) for number in range(1, 30)])
        chosen = union_all(*(select(literal(number).label("key")) for number in (3, 12, 21)))
        assert {entry.id for entry in docs.similar(long_text(12), among=chosen)} == {3, 12, 21}

    @on_both
    def test_ties_and_one_item_that_fills_the_first(self, docs):
        """An item of hundreds of equal chunks hides no other."""
        docs.embed("many", "\n\n".join(f"alpha beta {'gamma ' * 20}" for _ in range(300)))
        docs.embed_multi([("b", "alpha beta gamma"), ("a", "alpha beta gamma"), ("c", "delta")])
        assert [entry.id for entry in docs.similar("alpha beta gamma", 3)] == ["a", "b", "many"]
        assert len(docs.similar("gamma", 4)) == 4
        assert docs.similar("gamma", 1, offset=3)[0].id == "c"

    def test_what_is_written_is_found_at_once(self, filled, texts):
        """A matrix that is in memory takes in what an edit changes."""
        question = "an entirely other sentence about whales"
        assert filled.similar(question, 1)[0].score < 0.5
        filled.embed("t5", texts["t5"] + "\n\n" + question.capitalize() + ".", store=True)
        best = filled.similar(question, 1)[0]
        assert (best.id, best.chunk.text) == ("t5", question.capitalize() + ".")
        filled.delete_items(["t5"])
        assert filled.similar(question, 1)[0].id != "t5"


class TestWords:
    """Chunks are found by their words too, and items once."""

    @pytest.fixture
    def indexed(self, docs):
        docs.create_text_index()
        docs.embed_multi([(f"t{number}", long_text(number, 10)) for number in range(20)])
        docs.embed("a", long_text(50, 8) + "\n\nThe code E1042 means that the valve is shut.")
        docs.embed("b", "The valve is open. The valve is wide open.")
        return docs

    @on_both
    def test_an_item_is_found_by_the_words_of_a_chunk(self, indexed):
        """By words alone, fused, and by the host's own order; never twice, never short."""
        found = indexed.similar("anything", words="E1042 valve", weights=(0, 1))
        assert sorted(entry.id for entry in found) == ["a", "b"]
        assert [entry.ranks for entry in found] == [(None, 1), (None, 2)]
        in_a = next(entry for entry in found if entry.id == "a")
        chunks = indexed.get_chunks("a")
        assert in_a.chunk == chunks[-1]
        both = indexed.similar("which valve is shut, E1042", 30, words=True)
        assert both[0].id == "a"
        assert len({entry.id for entry in both}) == len(both) == 22
        assert both[0].chunk.number == len(chunks) - 1
        first = [literal(id) for id in ("t7", "none", "a", "t3")]
        ranking = union_all(*(select(each.label("key")) for each in first)).subquery()
        by_host = indexed.similar("anything", words=select(ranking.c.key), weights=(0, 1))
        assert [entry.id for entry in by_host] == ["t7", "a", "t3"]
        assert len(indexed.similar("valve", 5, "t", words=True)) == 5
        least = indexed.similar("which valve is shut", 1)[0].score
        near = indexed.similar("which valve is shut", words=True, min_score=least - 1e-6)
        assert [entry.id for entry in near] == [indexed.similar("which valve is shut", 1)[0].id]
        assert indexed.similar_by_id("a", 2, words="open valve")[0].id == "b"

    @on_both
    def test_as_a_selectable(self, indexed):
        """With the rank."""
        found = indexed.matches("E1042", 3, words=True)
        with indexed.reference.work() as work:
            rows = work.run(select(found.c.id, found.c.score, found.c.rank)).all()
        assert sorted(row.rank for row in rows) == [1, 2, 3]
        assert {row.rank: row.id for row in rows}[1] == "a"

    @on_both
    def test_an_edit_changes_the_words(self, indexed):
        """What a chunk had and has no more is not found."""
        indexed.embed("a", "Nothing of it.")
        found = indexed.similar("anything", words="E1042", weights=(0, 1))
        assert list(found) == []


@on_both
def test_a_copy(docs, opened, model):
    """Has chunks as well, and what is kept of them; nothing is embedded."""
    texts = {f"t{number}": long_text(number) for number in range(5)}
    docs.embed_multi_with_metadata(((id, each, {"id": id}) for id, each in texts.items()), True)
    embedded(model)
    copy = opened("copy")
    report = docs.copy_to(copy, batch_size=7)
    assert (report.reused, report.unchanged, report.skipped) == (5, 0, ())
    assert copy.count() == 5
    assert copy.get("t3").content == texts["t3"]
    assert copy.get_chunks("t3") == docs.get_chunks("t3")
    docs.embed("t3", "Much shorter.", store=True)
    docs.embed("t4", texts["t4"] + "\n\nMore.", store=True)
    embedded(model)
    again = docs.copy_to(copy)
    assert again.reused + again.unchanged == 5
    assert copy.get_chunks("t3") == docs.get_chunks("t3")
    assert copy.count(chunks=True) == docs.count(chunks=True)
    assert embedded(model) == []
    assert copy.similar(texts["t4"], 1)[0].id == "t4"
    plain = opened("plain")
    plain.embed("a", "text")
    with pytest.raises(ChunksMismatchError, match=r"'plain' has no .* it has Chunks\(size=200"):
        docs.copy_to(plain)
    with pytest.raises(ChunksMismatchError, match=r"has Chunks\(size=200.*it has no chunks"):
        plain.copy_to(copy)
    for source, said in ((docs, r"Chunks\(size=200\)"), (plain, "no chunks")):
        with pytest.raises(ChunksMismatchError, match=rf"given Chunks\(size=33\).*it has {said}: "):
            source.copy_to(opened("another", chunks=Chunks(size=33)))
    with pytest.raises(ChunksMismatchError, match=r"no chunks, and was given Chunks\(size=33, o"):
        opened("plain", chunks=Chunks(size=33, overlap=9)).embed("b", "text")


@pytest.mark.parametrize("db", ["postgresql_engine"], indirect=True)
def test_by_the_index(opened, model):
    """Only PostgreSQL has one: candidates are grouped in the statement; short, it reads all."""
    docs = opened("docs", chunks=Chunks(size=120))
    docs.embed_multi([(f"t{number}", long_text(number, 15)) for number in range(60)])
    docs.embed("many", "\n\n".join(f"alpha beta {'gamma ' * 15}{number}" for number in range(900)))
    docs.create_index()
    question = long_text(33, 15).split("\n\n")[7]
    by_index = docs.similar(question, 5)
    assert not by_index.exact
    assert by_index[0].id == "t33"
    exact = docs.similar(question, 5, exact=True)
    assert len({entry.id for entry in by_index}) == 5
    assert len({entry.id for entry in by_index} & {entry.id for entry in exact}) >= 4
    # The nearest are all of one item: what the index finds is not enough.
    assert len(docs.similar("alpha beta gamma", 5, "t")) == 5
    ids = [entry.id for entry in docs.similar("alpha beta gamma", 8)]
    assert ids == [entry.id for entry in docs.similar("alpha beta gamma", 8, exact=True)]
    found = docs.matches(question, 5, exact=False)
    with docs.reference.work() as work:
        rows = work.run(select(found.c.id).order_by(found.c.score.desc())).scalars().all()
    assert rows[0] == "t33"
    assert len({*rows}) == 5


@on_both
def test_a_transaction_that_is_rolled_back(docs, db):
    """Leaves nothing of a collection, of its setting or of an edit."""
    docs.embed("long", long_text(1), store=True)
    assert docs.count(chunks=True) > 1
    db.rollback()
    assert docs.count() == 0
    docs.embed("long", long_text(1), store=True)
    db.commit()
    chunks = docs.get_chunks("long")
    docs.embed("long", "Shorter.", store=True)
    assert docs.similar(long_text(1), 1)[0].content == "Shorter."
    db.rollback()
    assert docs.get_chunks("long") == chunks
    assert docs.get("long").content == long_text(1)
    assert docs.similar(long_text(1), 1)[0].chunk in chunks


@pytest.mark.parametrize("db", ["session", "postgresql_session"], indirect=True)
def test_a_new_collection_inherits_no_setting(docs, opened, db):
    """What another program leaves of a collection that it deletes cuts no later one's texts."""
    docs.embed("long", long_text(1))
    for table in ("embeddings", "collections"):
        db.execute(text(f"DELETE FROM {table}"))
    db.commit()
    plain = opened("plain")
    plain.embed("long", long_text(1))
    db.commit()
    assert rows_of(db, "SELECT id FROM embeddings") == [("long",)]
    db.commit()  # Citus writes no collection after a statement that has asked all servers
    opened("docs", chunks=Chunks(size=200)).embed("long", long_text(1))
    assert plain.count(chunks=True) == 1


def test_a_name_that_is_another_collections_by_now(tmp_path, model):
    """A search in memory finds out that the rows are chunks now."""
    from sqlalchemy import create_engine

    one, two = (create_engine(f"sqlite:///{tmp_path / 'app.db'}") for _ in range(2))
    embeddings.migrate(one)
    here = Collection("docs", one, model=model)
    here.embed_multi([("a", "alpha"), ("b", "beta")])
    assert here.similar("alpha", 1)[0].id == "a"
    there = Collection("docs", two, model=model)
    there.delete()
    there = Collection("docs", two, model=model, chunks=Chunks(size=20))
    there.embed_multi([("a", "alpha"), ("b", "beta")])
    assert [entry.id for entry in here.similar("alpha", 2)] == ["a", "b"]
    one.dispose()
    two.dispose()


@pytest.mark.parametrize("db", ["engine", "postgresql_engine"], indirect=True)
def test_writers_at_once(opened, model):
    """Several write one item with texts of different lengths: one of them is there, whole."""
    texts = [long_text(number, 3 + 4 * number) for number in range(4)]
    docs = opened("docs", chunks=Chunks(size=200))
    docs.embed("other", "a text, so that the collection is there")

    def write(number: int) -> None:
        mine = Collection("docs", docs.reference.sessions, model=DeterministicModel())
        for _ in range(3):
            mine.embed("long", texts[number], store=True)

    in_threads(write, 4)
    content = docs.get("long").content
    assert content in texts
    chunks = docs.get_chunks("long")
    assert [(chunk.start, chunk.end) for chunk in chunks] == Chunks(size=200).spans(content)
    assert all(chunk.text == content[chunk.start : chunk.end] for chunk in chunks)
