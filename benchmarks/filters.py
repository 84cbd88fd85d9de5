"""Searches among a host's rows, against the search without a filter in the same run.

    python -m tests.server python -m benchmarks.filters [--rows 100000] [--rounds 15]

Every figure is a median of paired rounds. A product has an integer, a UUID and a text for a key;
a filter keeps the products of so many per mille. On SQLite the other side is also 1.3 times the
host's own SELECT of the keys and the search without a filter.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import BigInteger, Engine, create_engine, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import embeddings
from benchmarks.measure import FakeModel, ratio, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from embeddings.vectors import Float32

DIMENSIONS, CLUSTERS, SPREAD = 256, 1_000, 0.7
QUERIES = 50
SEARCHES = 5  # in a round
OVERHEAD = 0.002  # seconds that a filter may take in each search on PostgreSQL, whatever the rows


class Base(DeclarativeBase):
    """The host's own tables."""


class Product(Base):
    """A row with three keys."""

    __tablename__ = "products"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    uid: Mapped[uuid.UUID] = mapped_column(unique=True)
    code: Mapped[str] = mapped_column(unique=True)
    mille: Mapped[int] = mapped_column(index=True)


KEYS: dict[str, Any] = {"int": Product.id, "uuid": Product.uid, "text": Product.code}


def kept(key: Any, mille: int) -> Any:
    """Return the SELECT of the keys of so many products in a thousand; of all without a WHERE."""
    chosen = select(key)
    return chosen if mille > 1_000 else chosen.where(Product.mille < mille)


def fill(engine: Engine, matrix: Float32, kinds: list[str]) -> None:
    """Store the products, and a collection for each kind of key."""
    embeddings.migrate(engine)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    chance = np.random.default_rng(2)
    products = [
        {"id": n, "uid": uuid.UUID(int=n * 2**80), "code": f"product {n}", "mille": mille}
        for n, mille in zip(
            chance.permutation(len(matrix)).tolist(),
            chance.integers(0, 1_000, len(matrix)).tolist(),
            strict=True,
        )
    ]
    with engine.begin() as connection:
        connection.execute(insert(Product), products)
    for kind in kinds:
        key = KEYS[kind]
        docs: Any = embeddings.Collection(kind, engine, model=FakeModel({}), key=key)
        pairs = ((product[key.key], v) for product, v in zip(products, matrix, strict=True))
        docs.store_vectors(pairs, batch_size=2_000)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))


def each(queries: Float32, search: Callable[[Any], object]) -> Callable[[], float]:
    """Return what takes the time of a search for some queries."""
    return lambda: seconds(lambda: [search(query) for query in queries[:SEARCHES]])


def recall(docs: Any, among: Any, queries: Float32) -> float:
    """Return the share of the ten best that are found, and check that no result is short."""
    hits = wanted = 0
    for query in queries:
        found = docs.similar_by_vector(query, among=among)
        right = docs.similar_by_vector(query, among=among, exact=True)
        if len(found) != len(right):
            raise AssertionError(f"{len(found)} found, and there are {len(right)}")
        hits += len({entry.id for entry in found} & {entry.id for entry in right})
        wanted += len(right)
    return hits / max(1, wanted)


def beside(
    name: str,
    search: Callable[[], float],
    plain: Callable[[], float],
    rounds: int,
    most: float | None,
) -> None:
    """Print the ratio to the search without a filter, or to the most that is allowed beside it."""
    if most is None:
        ratio(f"{name} / no filter", search, plain, rounds, "")
        return
    ratio(
        f"{name} / ({most} no filter + 2 ms)",
        search,
        lambda: most * plain() + SEARCHES * OVERHEAD,
        rounds,
        "1",
    )


def postgresql(matrix: Float32, queries: Float32, kinds: list[str], rounds: int) -> None:
    """Print the ratios with an index of each collection."""
    engine = create_engine(os.environ["POSTGRESQL_URL"])
    fill(engine, matrix, kinds)
    for kind in kinds:
        docs: Any = embeddings.Collection(kind, engine, model=FakeModel({}), key=KEYS[kind])
        docs.create_index(maintenance_work_mem="1GB")
    with Session(engine) as session:
        for kind in kinds:
            docs = embeddings.Collection(kind, session, model=FakeModel({}), key=KEYS[kind])
            plain = each(queries, docs.similar_by_vector)
            for mille, most in ((1_001, 1.5), (900, 3.0), (500, 3.0), (50, None), (5, None)):
                among = kept(KEYS[kind], mille)
                name = f"PostgreSQL, {kind}, " + (f"{mille / 10} %" if mille <= 1_000 else "all")
                search = each(queries, partial(docs.similar_by_vector, among=among))
                beside(name, search, plain, rounds, most)
                print(f"{name + ', recall@10':66} {recall(docs, among, queries):8.4f}")
            among = kept(KEYS[kind], 500)

            def joined(query: Any, docs: Any = docs, among: Any = among) -> object:
                found = docs.matches_by_vector(query, among=among)
                return session.execute(select(found)).all()

            name = f"PostgreSQL, {kind}, matches among half"
            beside(name, each(queries, joined), plain, rounds, 3.0)


def sqlite(matrix: Float32, queries: Float32, rounds: int) -> None:
    """Print the ratios for a file."""
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'shop.db'}")
        fill(engine, matrix, ["int"])
        with Session(engine) as session:
            docs: Any = embeddings.Collection("int", session, model=FakeModel({}), key=Product.id)
            plain = each(queries, docs.similar_by_vector)
            plain()
            for mille in (1_001, 900, 500, 100, 50, 20, 10, 1):
                among = kept(Product.id, mille)
                search = each(queries, partial(docs.similar_by_vector, among=among))

                def both(among: Any = among) -> float:
                    keys = each(queries, lambda _: session.execute(among).all())
                    return 1.3 * keys() + plain()

                name = "SQLite, " + (f"{mille / 10} %" if mille <= 1_000 else "all")
                ratio(f"{name} / no filter", search, plain, rounds, "3" if mille > 400 else "")
                ratio(
                    f"{name} / (1.3 SELECT + no filter)",
                    search,
                    both,
                    rounds,
                    "1",
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kinds", nargs="*", choices=KEYS, default=[*KEYS])
    parser.add_argument("--only", choices=["postgresql", "sqlite"])
    options = parser.parse_args()
    chance = np.random.default_rng(1)
    centres = chance.standard_normal((CLUSTERS, DIMENSIONS))

    def clustered(number: int) -> Any:
        noise = SPREAD * chance.standard_normal((number, DIMENSIONS))
        return (centres[chance.integers(0, CLUSTERS, number)] + noise).astype(np.float32)

    matrix, queries = clustered(options.rows), clustered(QUERIES)
    if options.only != "postgresql":
        sqlite(matrix, queries, options.rounds)
    if options.only != "sqlite":
        postgresql(matrix, queries, options.kinds, options.rounds)


if __name__ == "__main__":
    main()
