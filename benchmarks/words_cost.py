"""What the words of a collection cost: writing its index, and searching by meaning and by words.

    python -m benchmarks.words_cost [texts] [items]

Printed are ratios of pairs, of the time and of the processor time, on SQLite and, with the URL of a
database in POSTGRESQL_URL, there: of writing 10,000 texts with an index against without, by a model
that costs nothing, and of a search among 100,000 items by both against one by meaning and one by
words, one after the other.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, create_engine, text

from embeddings import Collection, configure_sqlite, migrate
from examples.stdlib import find_docstrings

from .measure import FakeModel, Processors, Spent, paired

DIMENSIONS = 256
QUESTIONS = 20
ROUNDS = 5


def main() -> None:
    texts, items = (*map(int, sys.argv[1:]), 10_000, 100_000)[:2]
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'words.db'}")
        configure_sqlite(engine)
        show("SQLite", engine, texts, items)
    if url := os.environ.get("POSTGRESQL_URL"):
        show("PostgreSQL", create_engine(url), texts, items)


def made(number: int) -> dict[str, str]:
    """Return so many different texts of 5 to 60 words, as docstrings have them, by their ids."""
    rng = random.Random(7)  # noqa: S311  no secret
    words = [word for _, (_, docstring) in find_docstrings() for word in docstring.split()]
    texts = {}
    for each in range(number):
        start = rng.randrange(len(words) - 60)
        texts[f"{each:06}"] = f"{each} " + " ".join(words[start : start + rng.randint(5, 60)])
    return texts


def show(database: str, engine: Engine, texts: int, items: int) -> None:
    migrate(engine)
    processors = Processors()
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            processors = Processors(connection.scalar(text("SELECT pg_backend_pid()")))
    given = made(max(texts, items))
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((len(given), DIMENSIONS), np.float32)
    model = FakeModel(dict(zip(given.values(), vectors, strict=True)))
    written = [*given.items()][:texts]

    def writing(name: str, *, has_index: bool) -> Spent:
        docs: Collection[Any] = Collection(name, engine, model=model)
        docs.embed("first", given["000000"])
        if has_index:
            docs.create_text_index()
        spent = processors.of(lambda: docs.embed_multi(written, batch_size=1000))
        docs.delete()
        if engine.dialect.name == "postgresql":  # as autovacuum does, which may be off
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE embeddings"))
        return spent

    # Written first: statistics of an empty table mislead the planner of PostgreSQL.
    docs: Collection[Any] = Collection("searched", engine, model=model)
    docs.create_text_index()
    docs.embed_multi([*given.items()][:items], batch_size=2000)
    writing("first", has_index=True)
    paired(
        f"{database}: writing {texts} texts with an index / without",
        lambda: writing("with", has_index=True),
        lambda: writing("without", has_index=False),
        ROUNDS,
        "1.4" if database == "SQLite" else "1.8",
    )
    chosen = random.Random(8).sample(sorted(given), QUESTIONS)  # noqa: S311  no secret
    questions = [" ".join(given[id].split()[1:7]) for id in chosen]
    queries = dict(zip(questions, vectors, strict=False))
    ways: dict[str, dict[str, Any]] = {
        "both": {"words": True},
        "meaning": {},
        "words": {"words": True, "weights": (0, 1)},
    }
    asked: Collection[Any] = Collection("searched", engine, model=FakeModel(queries))

    def searching(*names: str) -> Spent:
        return processors.of(
            lambda: [asked.similar(q, 10, **ways[name]) for q in questions for name in names]
        )

    searching(*ways)
    for name in ("words", "meaning"):
        print(f"{database}: {name} {searching(name).time / QUESTIONS * 1000:.1f} ms")
    paired(
        f"{database}: {QUESTIONS} searches by both among {items} / by each",
        lambda: searching("both"),
        lambda: searching("meaning", "words"),
        ROUNDS,
        "1.2",
    )
    docs.delete()


if __name__ == "__main__":
    main()
