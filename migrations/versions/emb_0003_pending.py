"""The rows that are pending, to which triggers on hosts' tables append."""

from alembic import op

from embeddings.tables.revisions import add, take_away

revision = "emb_0003"
down_revision = "emb_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add(op, "pending")


def downgrade() -> None:
    take_away(op, "pending")
