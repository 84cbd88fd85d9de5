"""What collections with chunks need: columns of them, on PostgreSQL."""

from alembic import op

from embeddings.tables.revisions import add, take_away

revision = "emb_0005"
down_revision = "emb_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add(op, "chunks")


def downgrade() -> None:
    take_away(op, "chunks")
