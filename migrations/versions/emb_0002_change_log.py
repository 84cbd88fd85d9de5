"""The change log of SQLite, its triggers, and the rows that tell `llm` how far it is."""

from alembic import op

from embeddings.tables.revisions import add, take_away

revision = "emb_0002"
down_revision = "emb_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add(op, "log")


def downgrade() -> None:
    take_away(op, "log")
