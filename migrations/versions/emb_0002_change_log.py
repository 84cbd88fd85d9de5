"""The change log of SQLite, its triggers, and the rows that tell `llm` how far it is."""

import sqlalchemy as sa
from alembic import op

from embeddings.records import RECORDS
from embeddings.schema import LLM_MIGRATIONS_TABLE, TRIGGERS, side_tables

revision = "emb_0002"
down_revision = "emb_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for statement in side_tables():
            op.execute(sa.text(statement))


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for name in TRIGGERS:
            op.execute(sa.text(f'DROP TRIGGER IF EXISTS "{RECORDS.log}_{name}"'))
        op.execute(sa.text(f'DROP TABLE IF EXISTS "{RECORDS.log}"'))
        op.execute(
            sa.text(f"DELETE FROM {LLM_MIGRATIONS_TABLE} WHERE migration_set = 'llm.embeddings'")
        )
