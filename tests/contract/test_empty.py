"""A collection without rows: it takes another model than it was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from embeddings import Collection, CollectionRecord, ModelMismatchError
from embeddings.testing import DeterministicModel
from tests.reaching import connection_to, on_a_session, on_both

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from sqlalchemy.orm import Session

    from tests.conftest import Open

    Write = Callable[[Collection[Any]], object]


class Short(DeterministicModel):
    """A model of other dimensions."""

    def embed_batch(self, items: Any) -> Any:
        super().embed_batch(items)
        return [[float(len(item)), 1.0] for item in items]


def emptied(opened: Open) -> None:
    """Leave a collection of the model "deterministic" without rows."""
    docs = opened()
    docs.embed_multi([("a", "one hound"), ("b", "two cats")])
    docs.delete_items(["a", "b"])


def by_a_plan(docs: Collection[Any]) -> None:
    plan = docs.plan([("c", "three foxes")])
    plan.embed()
    docs.apply(plan)


@pytest.mark.parametrize(
    "write",
    [
        lambda docs: docs.embed("c", "three foxes"),
        lambda docs: docs.embed_multi([("c", "three foxes")]),
        lambda docs: docs.store_vectors([("c", [11.0, 1.0])]),
        lambda docs: docs.embed("c", docs.prepare("three foxes")),
        by_a_plan,
    ],
    ids=["embed", "embed_multi", "store_vectors", "prepared", "plan"],
)
@on_both
def test_the_first_write_gives_it_the_new_model(write: Write, opened: Open):
    """Reading needs no write and is no error; from the first write on the model is the new one."""
    emptied(opened)
    other = opened(model=Short("other"))
    assert (other.model_id, other.count(), other.ids()) == ("other", 0, [])
    assert other.similar("three foxes") == []
    assert vars(other.model())["calls"] == []

    write(other)

    assert other.similar("three foxes")[0].id == "c"
    assert opened(model=other.model()).model_id == "other"
    with pytest.raises(ModelMismatchError, match=r"'other'.*'deterministic'"):
        opened().embed("d", "text")
    assert other.ids() == ["c"]


@on_both
def test_without_a_model_it_keeps_its_own(opened: Open, deterministic_models: object):
    """The application's default is for new collections."""
    emptied(opened)
    assert opened(model_id=None).model_id == "deterministic"


@on_a_session
def test_the_record_that_the_session_has_loaded_has_the_new_model(opened: Open, db: Session):
    emptied(opened)
    record = db.scalars(select(CollectionRecord)).one()
    opened(model=Short("other")).embed("c", "three foxes")
    assert record.model == "other"


def test_a_path(tmp_path: Path):
    """An eager collection is opened with the new model, too."""
    Collection("docs", tmp_path / "a.db", model=DeterministicModel()).close()
    with Collection("docs", tmp_path / "a.db", model=Short("other")) as docs:
        docs.embed("c", "three foxes")
    with Collection("docs", tmp_path / "a.db", model=Short("other")) as docs:
        assert (docs.model_id, docs.ids()) == ("other", ["c"])


@pytest.mark.parametrize("db", ["engine"], indirect=True)
def test_rows_whose_vectors_are_corrupt_are_rows(opened: Open, db: Any):
    """The vectors of another model are not put among them."""
    emptied(opened)
    with connection_to(db) as connection:
        table = CollectionRecord.metadata.tables["embeddings"]
        connection.execute(insert(table).values(collection_id=1, id="x", content="not a vector"))
        connection.commit()
    other = opened(model=Short("other"))
    with pytest.raises(ModelMismatchError):
        other.embed("c", "text")
    with pytest.raises(ModelMismatchError):
        other.store_vectors([("c", [1.0, 1.0])])
