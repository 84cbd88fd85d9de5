"""Plan, embed, apply: what there is to do is known before anything is spent or written."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from embeddings import (
    AsyncCollection,
    AsyncPlan,
    Collection,
    DoesNotExist,
    EmbeddingRecord,
    InvalidItemError,
    InvalidVectorError,
    ModelError,
    ModelMismatchError,
    Plan,
    Report,
)
from embeddings.testing import DeterministicModel
from tests.reaching import on_a_session, on_both, on_each_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.conftest import Open

    Change = Callable[[Collection[Any]], Any]

ITEMS = [("a", "one hound"), ("b", "two cats"), ("c", "one hound")]


def parts(plan: Plan[Any]) -> dict[str, Any]:
    """Return all that a plan tells."""
    return {name: getattr(plan, name) for name in ("new", "reusable", "unchanged", "contents")}


def contents_of(docs: Collection[Any]) -> dict[Any, Any]:
    """Return what is stored, by id."""
    return {
        record.id: record.content if record.content_blob is None else record.content_blob
        for record in docs
    }


@pytest.fixture
def filled(docs: Collection[str], model: DeterministicModel) -> Collection[str]:
    """A collection with two items."""
    docs.embed("a", "one hound", {"n": 1}, store=True)
    docs.embed("b", "two cats")
    model.calls.clear()
    return docs


# The whole way, however the database is reached


def test_plan_embed_apply(docs: Collection[str], model: DeterministicModel):
    """The model is called by `embed` alone; `apply` writes what `embed_multi` would have."""
    plan = docs.plan(ITEMS, store=True)
    assert isinstance(plan, Plan)
    assert (plan.collection, plan.model_id) == ("docs", "deterministic")
    assert parts(plan) == {
        "new": ["a", "b", "c"],
        "reusable": [],
        "unchanged": [],
        "contents": ["one hound", "two cats"],
    }
    assert (model.calls, docs.count()) == ([], 0)

    plan.embed()
    assert (model.calls, docs.count()) == ([["one hound", "two cats"]], 0)
    assert plan.contents == []
    assert plan.new == ["a", "b", "c"]

    docs.apply(plan)
    assert contents_of(docs) == {"a": "one hound", "b": "two cats", "c": "one hound"}
    assert len(model.calls) == 1
    assert [entry.id for entry in docs.similar("one hound", number=2)] == ["a", "c"]


def test_a_second_plan_knows_what_is_there(filled: Collection[str], model: DeterministicModel):
    """Items are new, reusable or unchanged, in the order in which they are stored."""
    plan = filled.plan(
        [
            ("z", "a new one"),
            ("a", "one hound"),
            ("c", "two cats"),
            ("b", "two cats", {"n": 2}),
            ("A", "a new one"),
        ]
    )

    assert parts(plan) == {
        "new": ["A", "z"],
        "reusable": ["b", "c"],
        "unchanged": ["a"],
        "contents": ["a new one"],
    }
    assert repr(plan) == "<Plan for 'docs': 4 to write, 2 of them new>"
    plan.embed()
    filled.apply(plan)
    assert model.calls == [["a new one"]]
    assert filled.ids() == ["A", "a", "b", "c", "z"]
    record = filled.get("b")
    assert record is not None
    assert record.metadata_ == {"n": 2}
    assert parts(filled.plan([("z", "a new one"), ("c", "two cats")]))["unchanged"] == ["c", "z"]


def test_apply_before_embed(filled: Collection[str], model: DeterministicModel):
    """A plan whose contents have no vectors is refused, and nothing is written."""
    plan = filled.plan([("a", "three foxes"), ("c", "two cats")])

    with pytest.raises(InvalidItemError, match=r"plan\.embed\(\)"):
        filled.apply(plan)

    assert (model.calls, filled.ids()) == ([], ["a", "b"])
    plan.embed()
    filled.apply(plan)
    assert filled.ids() == ["a", "b", "c"]


def test_what_needs_no_model_needs_no_embed(filled: Collection[str], model: DeterministicModel):
    """Where nothing is new, `embed` does nothing and need not be called."""
    plan = filled.plan([("a", "one hound", {"n": 3}), ("c", "two cats")], store=True)
    assert plan.contents == []

    filled.apply(plan)
    plan.embed()

    assert model.calls == []
    assert contents_of(filled) == {"a": "one hound", "b": None, "c": "two cats"}


@on_both
def test_an_empty_plan(docs: Collection[str], model: DeterministicModel, db: Any):
    """A plan for nothing is nothing to do: as `embed_multi` of nothing, it creates nothing."""
    plan = docs.plan(iter(()))
    assert parts(plan) == {"new": [], "reusable": [], "unchanged": [], "contents": []}

    plan.embed()
    docs.apply(plan)

    assert model.calls == []
    assert Collection.names(db) == []


@on_a_session
def test_a_plan_creates_nothing(docs: Collection[str], db: Any):
    """Planning only reads."""
    docs.plan(ITEMS).embed()

    assert Collection.names(db) == []


# What becomes of each item


@on_both
def test_a_plan_does_what_embed_multi_does(opened: Open):
    """Ids that occur twice, metadata, store and equal contents have the same effect."""
    items: list[tuple[Any, ...]] = [
        ("a", "one hound", {"n": 1}),
        ("a", "one hound", None),
        ("b", "first", {"n": 2}),
        ("b", "last"),
        ("c", "last", {"n": 3}),
        (7, "seven"),
    ]
    planned, direct = opened("planned"), opened("direct")
    for _ in range(2):
        plan = planned.plan(items, store=True)
        plan.embed()
        planned.apply(plan)
        direct.embed_multi_with_metadata([(*item, None)[:3] for item in items], store=True)

    def rows(docs: Collection[Any]) -> list[Any]:
        return [(r.id, r.content, r.metadata_, r.embedding.tolist()) for r in docs]

    assert rows(planned) == rows(direct)
    assert planned.ids() == ["7", "a", "b", "c"]


@on_a_session
def test_a_content_that_is_replaced_within_the_plan_is_not_embedded(docs: Collection[str]):
    """The last of several with one id wins, and only its content is paid for."""
    plan = docs.plan([("a", "first"), ("a", "last"), ("b", "other"), ("b", "last")])

    assert parts(plan)["contents"] == ["last"]
    assert plan.new == ["a", "b"]


@on_both
def test_text_and_bytes_of_equal_bytes(opened: Open):
    """They are two contents, under one id as well, where the last one stays."""
    model = DeterministicModel(supports_binary=True)
    docs = opened(model=model)
    plan = docs.plan([("a", "hound"), ("b", b"hound"), ("c", "hound"), ("c", b"hound")], store=True)
    assert plan.contents == ["hound", b"hound"]
    assert plan.new == ["a", "b", "c"]

    plan.embed(batch_size=1)
    docs.apply(plan)

    assert model.calls == [["hound"], [b"hound"]]
    assert contents_of(docs) == {"a": "hound", "b": b"hound", "c": b"hound"}
    again = docs.plan([("a", "hound"), ("b", b"hound"), ("d", b"hound")])
    assert parts(again) == {
        "new": [],
        "reusable": ["d"],
        "unchanged": ["a", "b"],
        "contents": [],
    }


@on_both
def test_force_embeds_again(filled: Collection[str], model: DeterministicModel):
    """With force every content is new, each once."""
    plan = filled.plan([("a", "one hound"), ("b", "two cats"), ("c", "two cats")], force=True)
    assert parts(plan) == {
        "new": ["a", "b", "c"],
        "reusable": [],
        "unchanged": [],
        "contents": ["one hound", "two cats"],
    }

    plan.embed()
    filled.apply(plan)

    assert model.calls == [["one hound", "two cats"]]
    record = filled.get("a")
    assert record is not None
    assert (record.content, record.metadata_) == ("one hound", {"n": 1})


@on_both
@pytest.mark.parametrize(
    ("key", "ids"),
    [(int, [9, 10, -1]), (uuid.UUID, [uuid.UUID(int=9), uuid.UUID(int=10), uuid.UUID(int=255)])],
    ids=["int", "uuid"],
)
def test_keys_of_the_hosts_type(key: type, ids: list[Any], opened: Open):
    """A plan's ids are in the type of the collection's keys."""
    docs = opened(key=key)
    docs.embed(ids[0], "there")
    plan = docs.plan([(ids[0], "there"), (ids[1], "there"), (ids[2], "new")])

    assert (plan.unchanged, plan.reusable, plan.new) == ([ids[0]], [ids[1]], [ids[2]])
    plan.embed()
    docs.apply(plan)
    assert set(docs.ids()) == set(ids)
    with pytest.raises(InvalidItemError):
        docs.plan([("text", "new")])


@on_a_session
def test_what_cannot_be_stored_is_refused_when_it_is_planned(
    filled: Collection[str], model: DeterministicModel, subtests: pytest.Subtests
):
    """An error is raised before anything is spent."""
    item: Any
    for item in [
        ("a",),
        ("a", "text", None, "more"),
        "ab",
        None,
        ("", "text"),
        ("a", None),
        ("a", "NUL \0"),
        ("a", "\ud800"),
        ("a", "text", {"n": float("nan")}),
        ("a", "text", ["no dict"]),
        ("a", b"bytes"),
        (1.5, "text"),
    ]:
        with subtests.test(ascii(item)[:60]):
            with pytest.raises(InvalidItemError):
                filled.plan([("b", "good"), item])
            assert (model.calls, filled.ids()) == ([], ["a", "b"])


@on_a_session
def test_what_is_planned_is_of_the_moment(docs: Collection[str]):
    """Metadata that the caller changes afterwards is stored as it was."""
    metadata = {"n": 1}
    plan = docs.plan([("a", "text", metadata)])
    metadata["n"] = 2
    plan.embed()
    docs.apply(plan)

    record = docs.get("a")
    assert record is not None
    assert record.metadata_ == {"n": 1}


@on_both
def test_a_plan_of_10_000(docs: Collection[str], model: DeterministicModel):
    """Any number of items is planned and applied at once."""
    items = [(f"{i:05}", f"text {i % 50}") for i in range(10_000)]
    docs.embed_multi(items[:100])
    model.calls.clear()
    plan = docs.plan(items)
    assert (len(plan.unchanged), len(plan.reusable), plan.contents) == (100, 9_900, [])

    docs.apply(plan)

    assert docs.count() == 10_000
    assert model.calls == []
    assert len(docs.plan(items).unchanged) == 10_000


# The model


@on_a_session
@pytest.mark.parametrize(
    ("own", "batch_size", "sizes"),
    [(None, 100, [5]), (None, 2, [2, 2, 1]), (3, 100, [3, 2]), (3, 2, [2, 2, 1]), (None, 5, [5])],
)
def test_batches(own: int | None, batch_size: int, sizes: list[int], opened: Open):
    """The model gets at most so many contents in a call; its own smaller batch size goes first."""
    model = DeterministicModel()
    model.batch_size = own
    docs = opened(model=model)
    plan = docs.plan([(str(i), f"text {i}") for i in range(5)])

    plan.embed(batch_size)

    assert [len(call) for call in model.calls] == sizes


@on_a_session
@pytest.mark.parametrize("batch_size", [0, -1, 1.5, None, "2", True])
def test_a_batch_size_that_means_nothing(batch_size: Any, docs: Collection[str]):
    """It is refused, and the model is not called."""
    plan = docs.plan(ITEMS)
    with pytest.raises((ValueError, TypeError)):
        plan.embed(batch_size)
    assert plan.contents == ["one hound", "two cats"]


class Failing(DeterministicModel):
    """A model that fails in its second call, once."""

    failed = False

    def embed_batch(self, items: Sequence[Any]) -> Any:
        if self.calls and not self.failed:
            self.failed = True
            raise ModelError("the service is down")
        return super().embed_batch(items)


def test_a_model_that_fails_keeps_what_was_embedded(opened: Open):
    """What was paid for is kept; the next call goes on from there."""
    model = Failing()
    docs = opened(model=model)
    plan = docs.plan([(str(i), f"text {i}") for i in range(5)])

    with pytest.raises(ModelError, match="down"):
        plan.embed(batch_size=2)
    assert plan.contents == ["text 2", "text 3", "text 4"]
    assert plan.new == ["0", "1", "2", "3", "4"]
    with pytest.raises(InvalidItemError, match="3 contents"):
        docs.apply(plan)
    assert docs.count() == 0

    plan.embed(batch_size=2)
    docs.apply(plan)
    assert model.calls == [["text 0", "text 1"], ["text 2", "text 3"], ["text 4"]]
    assert docs.count() == 5


@on_both
def test_vectors_of_another_length(filled: Collection[str], opened: Open):
    """A model whose vectors do not fit is found out when they are written, of which none is."""

    class Longer(DeterministicModel):
        def embed_batch(self, items: Sequence[Any]) -> Any:
            return [[1.0, 2.0, 3.0] for _ in items]

    docs = opened(model=Longer())
    plan = docs.plan([("c", "new"), ("a", "one hound", {"n": 9})])
    plan.embed()

    with pytest.raises(InvalidVectorError, match="256"):
        docs.apply(plan)

    record = docs.get("a")
    assert record is not None
    assert (docs.ids(), record.metadata_) == (["a", "b"], {"n": 1})


# What happened in between


def applied(docs: Collection[Any], plan: Plan[Any]) -> Report:
    """Embed and apply a plan; `apply` does not call the model."""
    model: Any = docs.model()
    plan.embed()
    model.calls.clear()
    report = docs.apply(plan)
    assert model.calls == []
    return report


CHANGED, DELETED = "changed since it was planned", "deleted since it was planned"


ABOUT_A = [("a", "one hound"), ("c", "two cats"), ("d", "new")]


@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        (lambda other: None, {}),
        (lambda other: other.delete_items(["a"]), {"a": DELETED}),
        (lambda other: other.embed("a", "changed", store=True), {"a": CHANGED}),
        (lambda other: other.embed("x", "one hound"), {}),
        (lambda other: other.set_metadata("a", {"n": 5}), {}),
        (lambda other: other.delete_items(["b"]), {}),
        (lambda other: other.embed("b", "changed"), {}),
        (lambda other: other.embed("d", "new"), {}),
        (lambda other: other.embed("d", "other", {"n": 4}, store=True), {"d": CHANGED}),
        (
            lambda other: other.store_vectors([("a", DeterministicModel().embed("x"))]),
            {"a": CHANGED},
        ),
    ],
    ids=[
        *("nothing", "unchanged deleted", "unchanged replaced", "unchanged elsewhere"),
        *("metadata", "reused deleted", "reused replaced", "new there", "new there as other"),
        "unchanged replaced by a vector",
    ],
)
@on_both
def test_another_writer(
    change: Change, skipped: dict[str, str], filled: Collection[str], opened: Open
):
    """A row that another changed or deleted since is left as it is; its id stands in `skipped`."""
    plan = filled.plan(ABOUT_A)
    change(opened())
    others = {row[0]: row for row in rows_of_text(filled)}

    report = applied(filled, plan)

    assert dict(report.skipped) == skipped
    done = report.embedded + report.reused + report.unchanged
    assert (done + len(skipped), report.requests) == (len(ABOUT_A), 0)
    rows = {row[0]: row for row in rows_of_text(filled)}
    for id, content in ABOUT_A:
        if id in skipped:
            assert rows.get(id) == others.get(id)
        else:
            assert filled.similar(content, where=EmbeddingRecord.id == id)[0].score > 0.99


@on_each_driver
def test_what_another_planned_and_applied_is_kept(filled: Collection[str], opened: Open):
    """Of two plans for the same rows the one that is applied first wins."""
    items = [("a", "changed", {"by": "one"}), ("b", "two cats", {"by": "one"}), ("e", "new")]
    first = filled.plan(items)
    second = opened().plan([("a", "other", {"by": "two"}), ("b", "two cats"), ("e", "newer")])

    assert applied(filled, first).skipped == ()
    assert dict(applied(opened(), second).skipped) == {"a": CHANGED, "e": CHANGED}

    assert filled.similar("changed", number=1)[0].id == "a"
    assert filled.similar("new", number=1)[0].id == "e"
    assert {record.id: record.metadata_ for record in filled} == {
        "a": {"by": "one"},
        "b": {"by": "one"},
        "e": None,
    }


@on_both
def test_what_the_report_of_each_step_says(filled: Collection[str]):
    """Numbers of items, by what became of them, and the calls of the model."""
    plan = filled.plan([("a", "one hound"), ("c", "two cats"), ("d", "new"), ("e", "new")])
    made = plan.embed()
    assert (made.embedded, made.requests) == (2, 1)
    report = filled.apply(plan)
    assert (report.embedded, report.reused, report.unchanged, report.requests) == (2, 1, 1, 0)
    assert report.seconds > 0
    report = filled.embed_multi([("a", "one hound"), ("b", "changed"), ("f", "new")], batch_size=2)
    assert (report.embedded, report.reused, report.unchanged, report.requests) == (1, 1, 1, 1)
    report = filled.embed_multi_with_metadata([("a", "one hound", {"n": 2})])
    assert (report.embedded, report.reused, report.unchanged, report.requests) == (0, 1, 0, 0)
    vector = DeterministicModel().embed("x")
    report = filled.store_vectors([("x", vector), ("y", vector)], batch_size=1)
    assert (report.reused, report.requests) == (2, 0)
    assert filled.apply(filled.plan([])) == Report()


def test_two_writers_of_a_new_row_at_once(postgresql_engine: Engine, model: DeterministicModel):
    """A row that another transaction is about to commit is waited for, and left alone."""
    docs = Collection("docs", postgresql_engine, model=model)
    docs.embed("a", "one hound")
    plan = docs.plan([("b", "two cats"), ("c", "three foxes")])
    plan.embed()
    with Session(postgresql_engine) as session, ThreadPoolExecutor(1) as pool:
        Collection("docs", session, model=model).embed("b", "other", {"n": 1})
        waiting = pool.submit(docs.apply, plan)
        until_somebody_waits(postgresql_engine)
        session.commit()
        report = waiting.result()

    assert (report.skipped, report.embedded) == ((("b", CHANGED),), 1)
    record = docs.get("b")
    assert record is not None
    assert record.metadata_ == {"n": 1}


@pytest.mark.parametrize("planned", ["ab", "b"])
@pytest.mark.parametrize("why", [DELETED, CHANGED])
def test_a_row_that_is_being_changed(
    planned: str, why: str, postgresql_engine: Engine, model: DeterministicModel
):
    """A transaction that is about to change or delete it is waited for, and has the last word."""
    docs = Collection("docs", postgresql_engine, model=model)
    docs.embed_multi([("a", "one hound"), ("b", "two cats")], store=True)
    plan = docs.plan([(id, "changed") for id in planned])
    plan.embed()
    with Session(postgresql_engine) as session, ThreadPoolExecutor(1) as pool:
        other = Collection("docs", session, model=model)
        if why == DELETED:
            other.delete_items(["b"])
        else:
            other.embed("b", "by another", store=True)
        waiting = pool.submit(docs.apply, plan)
        until_somebody_waits(postgresql_engine)
        session.commit()
        report = waiting.result()

    record = docs.get("b")
    assert report.skipped == (("b", why),)
    assert (record and record.content) == (None if why == DELETED else "by another")


def until_somebody_waits(engine: Engine) -> None:
    """Return when a connection to the database waits for a lock."""
    waits = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(waits):
            time.sleep(0.01)


def test_the_collection_is_deleted_by_another(filled: Collection[str], opened: Open):
    """It is made again, without what was there."""
    plan = filled.plan(ABOUT_A)
    opened().delete()

    assert applied(filled, plan).skipped == (("a", DELETED),)

    assert filled.ids() == ["c", "d"]


@on_both
def test_the_collection_is_deleted_by_itself(filled: Collection[str], db: Any):
    """A collection that was deleted is not made again by a plan."""
    plan = filled.plan(ABOUT_A)
    plan.embed()
    filled.delete()

    with pytest.raises(DoesNotExist):
        filled.apply(plan)
    assert Collection.names(db) == []


@on_both
def test_the_collection_must_exist_and_does_not(filled: Collection[str], opened: Open, db: Any):
    """With create=False nothing is made again either."""
    docs = opened(create=False)
    plan = docs.plan(ABOUT_A)
    plan.embed()
    filled.delete()

    with pytest.raises(DoesNotExist):
        docs.apply(plan)
    assert Collection.names(db) == []


@on_both
def test_the_collection_is_created_meanwhile(docs: Collection[str], opened: Open):
    """A first writer that was faster is joined."""
    plan = docs.plan(ITEMS)
    opened().embed("x", "one hound")

    assert applied(docs, plan).embedded == 3
    assert docs.ids() == ["a", "b", "c", "x"]


@on_both
def test_the_collection_has_another_model_by_then(filled: Collection[str], opened: Open):
    """Vectors of one model are never put among those of another."""
    plan = filled.plan(ABOUT_A)
    plan.embed()
    opened().delete()
    other = opened(model=DeterministicModel("other"))
    other.embed("x", "text")

    with pytest.raises(ModelMismatchError):
        filled.apply(plan)
    assert other.ids() == ["x"]


@on_both
def test_a_plan_made_with_another_model(docs: Collection[str], opened: Open, db: Any):
    """A collection of the same name and another model refuses it, and is not created by that."""
    plan = docs.plan(ITEMS)
    plan.embed()

    with pytest.raises(ModelMismatchError, match="other"):
        opened(model=DeterministicModel("other")).apply(plan)
    assert Collection.names(db) == []


@on_both
def test_a_plan_for_another_collection(filled: Collection[str], opened: Open, db: Any):
    """It is refused with both names."""
    plan = filled.plan(ABOUT_A)
    plan.embed()

    with pytest.raises(InvalidItemError, match=r"'docs'.*'others'"):
        opened("others").apply(plan)
    assert "others" not in Collection.names(db)


@on_both
def test_the_collection_is_renamed_in_between(filled: Collection[str], db: Any):
    """The plan is the collection's, whatever it is called by then."""
    plan = filled.plan(ABOUT_A)
    plan.embed()
    filled.rename("renamed")

    filled.apply(plan)

    assert filled.ids() == ["a", "b", "c", "d"]
    assert Collection.names(db) == ["renamed"]


@on_both
def test_applying_twice(filled: Collection[str], model: DeterministicModel, opened: Open):
    """The second time there is nothing to do, whatever another writer changed."""
    plan = filled.plan(ABOUT_A, store=True)
    plan.embed()
    filled.apply(plan)
    before = contents_of(filled)
    updated = rows_of_text(filled)

    filled.apply(plan)
    assert (contents_of(filled), rows_of_text(filled)) == (before, updated)

    opened().embed("d", "changed", store=True)
    assert filled.apply(plan).skipped == (("d", CHANGED),)
    assert contents_of(filled) == before | {"d": "changed"}
    assert model.calls == [["new"], ["changed"]]


def rows_of_text(docs: Collection[Any]) -> list[Any]:
    """Return everything of the rows but the vectors."""
    return [(r.id, r.content, r.content_hash, r.metadata_, r.updated) for r in docs]


# On a session


@on_both
def test_a_rollback_before_the_plan_is_applied(db: Any, opened: Open):
    """What was there when it was planned, and is no more, is skipped."""
    docs = opened()
    docs.embed("a", "one hound")
    plan = docs.plan([("a", "one hound"), ("b", "two cats")])
    assert plan.unchanged == ["a"]
    db.rollback()

    assert applied(docs, plan).skipped == (("a", DELETED),)
    assert docs.ids() == ["b"]


@on_both
def test_a_rollback_after_the_plan_was_applied(db: Any, opened: Open):
    """Nothing is left; the plan can be applied again, and nothing is paid for twice."""
    docs = opened()
    plan = docs.plan(ITEMS)
    plan.embed()
    docs.apply(plan)
    savepoint = db.begin_nested()
    docs.apply(docs.plan([("d", "one hound")]))
    assert docs.count() == 4
    savepoint.rollback()
    assert docs.ids() == ["a", "b", "c"]
    db.rollback()
    assert docs.ids() == []

    docs.apply(plan)
    db.commit()
    assert docs.ids() == ["a", "b", "c"]
    assert len(docs.model().calls) == 1  # type: ignore[attr-defined]


class Watching(DeterministicModel):
    """A model that looks at the host's session and pool while it runs."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.seen: list[tuple[bool, int]] = []

    def embed_batch(self, items: Sequence[Any]) -> Any:
        pool: Any = self.session.get_bind().pool  # type: ignore[union-attr]
        self.seen.append((self.session.in_transaction(), pool.checkedout()))
        return super().embed_batch(items)


@on_both
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_no_transaction_is_open_while_the_model_runs(end: str, db: Session, opened: Open):
    """After the host's commit `embed` opens none, and holds no connection."""
    docs = opened(model=DeterministicModel())
    docs.embed("a", "one hound")
    db.commit()
    model = Watching(db)
    docs = opened(model=model)
    before = db.get_bind().pool.checkedout()  # type: ignore[union-attr]
    plan = docs.plan([("a", "one hound"), ("b", "two cats"), ("c", "three foxes")])
    getattr(db, end)()

    plan.embed(batch_size=1)
    assert not db.in_transaction()
    docs.apply(plan)
    assert db.in_transaction()
    db.rollback()

    assert model.seen == [(False, before)] * 2
    assert docs.ids() == ["a"]


@on_a_session
def test_embed_executes_no_statement(db: Session, docs: Collection[str]):
    """Between plan and apply the database hears nothing, and the host's pending rows stay so."""
    plan = docs.plan(ITEMS)
    statements: list[str] = []
    engine: Any = db.get_bind()
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    pending = EmbeddingRecord(id="x", embedding=[1.0], collection_id=1)
    db.add(pending)

    plan.embed()
    _ = parts(plan)

    assert statements == []
    assert pending in db.new


@on_both
def test_records_that_the_session_has_loaded_are_not_stale(filled: Collection[str]):
    """As after `embed`."""
    record = filled.get("a")
    assert record is not None
    plan = filled.plan([("a", "changed", {"n": 2})], store=True)
    plan.embed()
    filled.apply(plan)

    assert (record.content, record.metadata_) == ("changed", {"n": 2})


# On an engine


@pytest.mark.parametrize("db", ["engine", "postgresql_engine"], indirect=True)
def test_apply_is_one_transaction(db: Engine, opened: Open):
    """A failure in the middle of it leaves nothing of the plan."""
    docs = opened()
    docs.embed("a", "one hound", {"n": 1})
    plan = docs.plan(
        [("a", "one hound", {"n": 2}), *((f"{i:03}", f"text {i}") for i in range(300))]
    )
    plan.embed()
    count = 0

    def fail(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise RuntimeError("the network is down")

    event.listen(db, "before_cursor_execute", fail)
    try:
        with pytest.raises(RuntimeError, match="network"):
            docs.apply(plan)
    finally:
        event.remove(db, "before_cursor_execute", fail)
    record = docs.get("a")
    assert record is not None
    assert (docs.ids(), record.metadata_) == (["a"], {"n": 1})

    docs.apply(plan)
    assert docs.count() == 301


# With asyncio


class Awaited(DeterministicModel):
    """A model that is awaited, and looks at the session meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.session: AsyncSession | None = None
        self.open: list[bool] = []

    async def aembed_batch(self, items: Sequence[Any]) -> list[Any]:
        await asyncio.sleep(0)
        if self.session is not None:
            self.open.append(self.session.in_transaction())
        return self.embed_batch(items)


@pytest.fixture
def file(tmp_path: Path, migrated: Path) -> Path:
    """A SQLite file with the tables."""
    return Path(shutil.copy(migrated, tmp_path / "async.db"))


@pytest.mark.parametrize("way", ["session", "engine"])
@pytest.mark.parametrize("model", [Awaited(), DeterministicModel()], ids=["awaited", "in a thread"])
def test_a_plan_is_awaited(way: str, model: DeterministicModel, file: Path):
    """`await plan.embed()` calls the model, with no transaction open on a session."""
    model.calls.clear()

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
        async with AsyncSession(engine) as session:
            if isinstance(model, Awaited):
                model.session = session
            docs: AsyncCollection[str] = AsyncCollection(
                "docs", session if way == "session" else engine, model=model
            )
            await docs.embed("a", "one hound")
            await session.commit()
            model.calls.clear()
            getattr(model, "open", []).clear()
            plan = await docs.plan([("a", "one hound"), ("b", "two cats"), ("c", "a fox")])
            assert isinstance(plan, AsyncPlan)
            assert (plan.new, plan.unchanged) == (["b", "c"], ["a"])
            await session.commit()
            with pytest.raises(InvalidItemError, match="embed"):
                await docs.apply(plan)
            await session.rollback()

            await plan.embed(batch_size=1)
            assert not session.in_transaction()
            assert plan.contents == []
            await docs.apply(plan)
            await session.commit()
            assert await docs.ids() == ["a", "b", "c"]
        await engine.dispose()

    asyncio.run(main())

    assert model.calls == [["two cats"], ["a fox"]]
    if isinstance(model, Awaited):
        assert model.open == [False, False]


def test_an_awaited_plan_keeps_what_was_embedded_when_it_is_cancelled(file: Path):
    """After a timeout the next call goes on from there."""

    class Slow(DeterministicModel):
        stuck = True
        timeout: asyncio.Timeout

        async def aembed_batch(self, items: Sequence[Any]) -> list[Any]:
            if self.calls and self.stuck:
                self.timeout.reschedule(0)  # now
                await asyncio.sleep(60)
            return self.embed_batch(items)

    async def main() -> None:
        model = Slow()
        engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
        docs = AsyncCollection("docs", engine, model=model)
        plan = await docs.plan(ITEMS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as model.timeout:
                await plan.embed(batch_size=1)
        assert plan.contents == ["two cats"]
        model.stuck = False
        await plan.embed()
        await docs.apply(plan)
        assert await docs.ids() == ["a", "b", "c"]
        await engine.dispose()

    asyncio.run(main())


def test_a_synchronous_plan_and_an_awaited_one_are_the_same_to_apply(file: Path):
    """What one made the other writes, as it is one implementation."""

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
        docs = AsyncCollection("docs", engine, model=DeterministicModel())
        plan = await docs.plan(ITEMS)
        await plan.embed()
        synchronous = create_engine(f"sqlite:///{file}")
        other = Collection("docs", synchronous, model=DeterministicModel())
        other.apply(plan)
        assert await docs.ids() == ["a", "b", "c"]
        back = other.plan([("d", "new")])
        back.embed()
        await docs.apply(back)
        assert other.ids() == ["a", "b", "c", "d"]
        with synchronous.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM collections")) == 1
        synchronous.dispose()
        await engine.dispose()

    asyncio.run(main())
