"""Django: a search among a model's instances, and saving with embedding, as ratios.

    python -m benchmarks.django_models [--rows 50000] [--dimensions 256] [--rounds 15]

Searches are divided by `Collection.similar` plus the SELECT of the instances; saving and embedding
by saving alone, each in one `atomic()`. SQLite is always measured; PostgreSQL within
`python -m tests.server`, which sets POSTGRESQL_URL.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import numpy as np
from django.conf import settings
from django.db import connections, models, transaction
from sqlalchemy import make_url

from benchmarks.measure import FakeModel, ratio, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "POSTGRESQL_URL"


def databases(folder: str) -> dict[str, dict[str, Any]]:
    """Return Django's databases: SQLite, and PostgreSQL where a server is told of."""
    found: dict[str, dict[str, Any]] = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(folder) / "bench.db",
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
        }
    }
    if URL in os.environ:
        url = make_url(os.environ[URL])
        found["postgresql"] = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.database,
            "USER": url.username,
            "HOST": url.query.get("host", url.host),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = databases(folder)
        settings.configure(
            DATABASES=found,
            INSTALLED_APPS=["embeddings.integrations.django"],
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        )
        django.setup()
        for alias in found:
            measure(alias, options.rows, options.dimensions, options.rounds)
        connections.close_all()


@functools.cache
def product() -> Any:
    """Return the model, which is declared once Django is set up."""

    class Product(models.Model):  # type: ignore[misc]
        name = models.CharField(max_length=200)
        published = models.BooleanField(default=True)

        class Meta:
            app_label = "embeddings"
            db_table = "bench_products"

    return Product


def measure(alias: str, rows: int, dimensions: int, rounds: int) -> None:
    """Print the ratios on one database."""
    from django.core.management import call_command

    from embeddings.integrations.django import ModelCollection

    Product = product()  # noqa: N806
    call_command("migrate", database=alias, verbosity=0)
    with connections[alias].schema_editor() as editor:
        editor.create_model(Product)
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((rows + 64, dimensions), np.float32)
    model = FakeModel({f"product {at}": vector for at, vector in enumerate(vectors)})
    products = ModelCollection(Product, text="name", model=model)
    objects = Product.objects.using(alias)
    objects.bulk_create(
        [Product(name=f"product {at}", published=at % 10 > 0) for at in range(rows)], 1000
    )
    keys = objects.order_by("pk").values_list("pk", flat=True)
    collection = products.collection(alias)
    collection.store_vectors(zip(keys, vectors, strict=False), batch_size=1000)
    if alias == "postgresql":
        collection.create_index()
        with connections[alias].cursor() as cursor:
            cursor.execute("ANALYZE")
    queries = iter(np.resize(np.arange(rows, rows + 64), 100_000).tolist())

    def text() -> str:
        return f"product {next(queries)}"

    def ours(queryset: Any) -> Callable[[], float]:
        return lambda: seconds(lambda: list(products.nearest(queryset, text())))

    def theirs() -> float:
        return seconds(lambda: objects.in_bulk([entry.id for entry in collection.similar(text())]))

    for _ in range(3):
        ours(objects.all())()
        theirs()
    ratio(f"{alias}: all instances", ours(objects.all()), theirs, rounds, "1.5")
    ratio(f"{alias}: nine in ten", ours(objects.filter(published=True)), theirs, rounds, "1.5")
    ratio(f"{alias}: one in ten", ours(objects.filter(published=False)), theirs, rounds, "-")

    number = iter(range(100_000))

    def save(embed: bool) -> float:
        with_name = Product(name=f"product {rows - 1 - next(number) % rows}")
        start = time.perf_counter()
        with transaction.atomic(using=alias):
            with_name.save(using=alias)
            if embed:
                products.embed(with_name)
        return time.perf_counter() - start

    def median(embed: bool) -> float:
        return statistics.median(save(embed) for _ in range(20))

    collection.delete()
    if alias == "postgresql":
        with connections[alias].cursor() as cursor:  # the server of the benchmarks does not
            cursor.execute("VACUUM")
    products.embed_multi(objects.all()[:100])
    ratio(f"{alias}: save and embed", lambda: median(True), lambda: median(False), rounds, "3")


if __name__ == "__main__":
    main()
