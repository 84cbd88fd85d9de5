"""What it costs to follow rows: the host's own writes, a comparison of all of them, a worker.

    python -m benchmarks.following [triggers] [sync] [refresh]    # all without a name
    python -m tests.server python -m benchmarks.following         # PostgreSQL as well

`triggers`: a table that is followed against one that is not. Both have the same rows, two indexes
besides their key, and are written in alternation, each write with its commit. Every figure is the
median of the paired ratios. Bounds: a column that counts 2.7 on SQLite and 2.0 on PostgreSQL, any
other 1.2, rows inserted 2.8 and 2.2.

`sync`: a comparison that finds nothing, against reading the same rows by pages of the same size.
Bounds: of text from columns 3.0, from a function of an instance 1.5 of loading the instances.

`refresh`: rows a second by a model that takes 50 ms for a call, one call at a time and four.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import embeddings
from benchmarks.measure import ratio, seconds
from embeddings import EmbeddingModel, ModelCollection
from embeddings.following.sync import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BODY = "A sentence of about the length that people store, more than once. " * 5


class Model(EmbeddingModel):
    """A model of 256 dimensions, each call of which takes so many seconds."""

    model_id = "paced"

    def __init__(self, pause: float, *, in_flight: int = 1) -> None:
        self.pause = pause
        self.concurrency = in_flight

    def embed_batch(self, items: Sequence[str | bytes]) -> list[list[float]]:
        time.sleep(self.pause)
        return [[float(len(item))] + [1.0] * 255 for item in items]


class Base(DeclarativeBase):
    pass


class Columns:
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    lang: Mapped[str] = mapped_column(index=True)
    published: Mapped[bool]
    views: Mapped[int] = mapped_column(index=True)


class Plain(Columns, Base):
    __tablename__ = "plain"


class Followed(Columns, Base):
    __tablename__ = "followed"


def declared(where: Any, model: Model | None = None) -> ModelCollection[Followed]:
    return ModelCollection(
        Followed,
        text=[Followed.title, Followed.body],
        metadata=[Followed.lang],
        where=where,
        name="followed",
        model=model,
    )


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "title": f"Title {id}",
            "body": f"{id}: {BODY}",
            "lang": "en" if id % 2 else "de",
            "published": True,
            "views": id % 1000,
        }
        for id in range(first, first + count)
    ]


def make(engine: Engine, count: int) -> None:
    """Make both tables, with so many rows."""
    embeddings.migrate(engine)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    for first in range(1, count + 1, PAGE):
        with engine.begin() as connection:
            for table in (Plain, Followed):
                connection.execute(insert(table), rows(first, min(PAGE, count + 1 - first)))


def measure_triggers(engine: Engine, options: argparse.Namespace) -> None:
    make(engine, options.rows)

    def run(statement: str) -> Callable[[str], Callable[[], None]]:
        def on(table: str) -> Callable[[], None]:
            def execute() -> None:
                with engine.begin() as connection:
                    connection.execute(text(statement.format(table=table)))

            return execute

        return on

    def inserted(table: str) -> Callable[[], None]:
        kind, new = {"plain": Plain, "followed": Followed}[table], rows(10**7, options.inserts)

        def execute() -> None:
            with engine.begin() as connection:
                for each in new:
                    connection.execute(insert(kind), each)

        return execute

    writes: dict[str, Callable[[str], Callable[[], None]]] = {
        f"UPDATE of {options.rows:,}, a column that counts": run(
            "UPDATE {table} SET title = title || '.'"
        ),
        f"UPDATE of {options.rows:,}, another column": run("UPDATE {table} SET views = views + 1"),
        f"{options.inserts:,} INSERTs in one transaction": inserted,
        f"DELETE of {options.inserts:,}": run("DELETE FROM {table} WHERE id >= 10000000"),
    }
    for where in (None, Followed.published):
        declared(where).install(engine)
        name = "with a condition" if where is not None else "every row"
        print(f"{engine.dialect.name}, {name}")
        ratios: dict[str, list[float]] = {what: [] for what in writes}
        for number in range(options.rounds + 1):
            for what, write in writes.items():
                tidy(engine)
                pair = [("plain", "followed"), ("followed", "plain")][number % 2]
                took = {table: seconds(write(table)) for table in pair}
                if number:  # the first warms up
                    ratios[what].append(took["followed"] / took["plain"])
        for what, found in ratios.items():
            print(f"  {what:45} {statistics.median(found):5.2f} x")


def tidy(engine: Engine) -> None:
    """Take off what is pending, and what earlier rounds left."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM embeddings_pending"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM"))


def measure_sync(engine: Engine, options: argparse.Namespace) -> None:
    make(engine, options.compared)
    model = Model(0.0)
    of_columns = declared(None, model)
    of_instances = ModelCollection(
        Followed,
        text=lambda row: f"{row.title}\n\n{row.body}",
        columns=[Followed.title, Followed.body],
        metadata=[Followed.lang],
        name="followed",
        model=model,
    )
    of_columns.sync(engine, batch_size=1000)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))

    def compared(what: ModelCollection[Followed]) -> Callable[[], float]:
        def timed() -> float:
            report = what.sync(engine)
            assert report.unchanged == options.compared, report
            return report.seconds

        return timed

    def paged(*columns: Any) -> Callable[[], float]:
        def read() -> None:
            page = select(*columns).order_by(Followed.id).limit(PAGE)
            after = 0
            while after < options.compared:
                with Session(engine) as session:
                    after = session.execute(page.where(Followed.id > after)).all()[-1][0]

        def load() -> None:
            page = select(Followed).order_by(Followed.id).limit(PAGE)
            after = 0
            while after < options.compared:
                with Session(engine) as session:
                    after = session.scalars(page.where(Followed.id > after)).all()[-1].id

        return lambda: seconds(read if columns else load)

    print(f"{engine.dialect.name}, sync of {options.compared:,} rows that have not changed")
    columns = (Followed.id, Followed.title, Followed.body, Followed.lang)
    ratio("  columns / reading them", compared(of_columns), paged(*columns), options.rounds, "3.0")
    ratio("  a function / loading", compared(of_instances), paged(), options.rounds, "1.5")
    for name, what in (("columns", of_columns), ("a function", of_instances)):
        few = peak(lambda what=what: what.sync(engine, dry_run=True))  # type: ignore[misc]
        print(f"  memory above what there was, text from {name}: {few:.1f} MB")


def peak(work: Callable[[], object]) -> float:
    """Return by how many MB this process grew at most; Linux alone tells."""

    def kilobytes(name: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # the highest from now on
    before = kilobytes("VmRSS")
    work()
    return (kilobytes("VmHWM") - before) / 1024


def measure_refresh(engine: Engine, options: argparse.Namespace) -> None:
    make(engine, options.pending)
    changed = 0
    of_all: dict[int, list[float]] = {1: [], 4: []}
    for number in range(options.rounds + 1):
        for in_flight, found in of_all.items():
            followed = declared(None, Model(0.05, in_flight=in_flight))
            followed.install(engine)
            changed += 1
            with engine.begin() as connection:
                connection.execute(update(Followed).values(title=f"Title {changed}"))
            took = seconds(lambda followed=followed: followed.refresh(engine))  # type: ignore[misc]
            if number:
                found.append(options.pending / took)
    print(f"{engine.dialect.name}, refresh of {options.pending:,} rows, 50 ms for a call of 100")
    for in_flight, found in of_all.items():
        print(f"  {in_flight} in flight: {statistics.median(found):7,.0f} rows a second")


MEASURED = {"triggers": measure_triggers, "sync": measure_sync, "refresh": measure_refresh}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=MEASURED, default=[*MEASURED])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--inserts", type=int, default=10_000)
    parser.add_argument("--compared", type=int, default=200_000)
    parser.add_argument("--pending", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for what in options.what:
        with tempfile.TemporaryDirectory() as folder:
            MEASURED[what](create_engine(f"sqlite:///{Path(folder) / 'app.db'}"), options)
        if url := os.environ.get("POSTGRESQL_URL"):
            MEASURED[what](create_engine(url), options)


if __name__ == "__main__":
    main()
