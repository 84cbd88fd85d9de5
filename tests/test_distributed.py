"""What tells from the text of a statement that Citus would refuse it."""

from __future__ import annotations

import pytest

from tests.distributed import problem

ACCEPTED = [
    "SELECT id FROM embeddings WHERE embeddings.collection_id = %(param_1)s::INTEGER AND id > 'a'",
    "SELECT id FROM embeddings WHERE embeddings.collection_id + 0 = $1::INTEGER",
    "WITH a AS (SELECT id FROM embeddings WHERE collection_id = 7 LIMIT 3) SELECT * FROM a",
    "INSERT INTO embeddings (collection_id, id) VALUES (7, 'a') ON CONFLICT DO NOTHING",
    "DELETE FROM embeddings WHERE collection_id = 7 AND id = ANY('{a}')",
    "SELECT id FROM collections WHERE name = 'docs'",
    "SELECT indexrelid FROM pg_index WHERE indrelid = to_regclass('embeddings')",
    "CREATE INDEX i ON embeddings (content_hash)",
    "SELECT id FROM embeddings_pending WHERE collection = 'docs'",
]
REFUSED = [
    "SELECT count(*) FROM embeddings",
    "SELECT id FROM embeddings WHERE collection_id IN (SELECT 7)",
    "SELECT id, (SELECT count(*) FROM embeddings WHERE collection_id = collections.id) AS rows "
    "FROM collections",
    "SELECT e.id FROM embeddings AS e JOIN pg_class ON pg_class.oid = e.tableoid "
    "WHERE e.collection_id = 7",
    "WITH a AS (SELECT id FROM embeddings) SELECT * FROM a WHERE collection_id = 7",
    "DELETE FROM embeddings WHERE id = 'a'",
    "UPDATE public.embeddings SET updated = 1",
]


@pytest.mark.parametrize("sql", ACCEPTED)
def test_accepted(sql: str):
    """About one collection, about no rows of embeddings, or about the schema."""
    assert problem(sql) is None


@pytest.mark.parametrize("sql", REFUSED)
def test_refused(sql: str):
    """About rows of several collections, about two tables of ours, or about the catalog too."""
    assert problem(sql) is not None
