"""What triggers cost the host's own writes: a table that is followed against one that is not.

    python -m benchmarks.following [--rows 100000] [--inserts 10000] [--rounds 5]
    python -m tests.server python -m benchmarks.following    # PostgreSQL as well

Both tables have the same rows, two indexes besides their key, and are written in alternation, each
write with its commit. Every figure is the median of the paired ratios. Bounds: a column that counts
2.7 on SQLite and 2.0 on PostgreSQL, any other 1.2, rows inserted 2.8 and 2.2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from benchmarks.measure import seconds
from embeddings import ModelCollection

if TYPE_CHECKING:
    from collections.abc import Callable

BODY = "A sentence of about the length that people store, more than once. " * 5


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


def declared(where: Any) -> ModelCollection[Followed]:
    return ModelCollection(
        Followed,
        text=[Followed.title, Followed.body],
        metadata=[Followed.lang],
        where=where,
        name="followed",
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


def measure(engine: Engine, options: argparse.Namespace) -> None:
    embeddings.migrate(engine)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for table in (Plain, Followed):
            connection.execute(insert(table), rows(1, options.rows))

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--inserts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(create_engine(f"sqlite:///{Path(folder) / 'app.db'}"), options)
    if url := os.environ.get("POSTGRESQL_URL"):
        measure(create_engine(url), options)


if __name__ == "__main__":
    main()
