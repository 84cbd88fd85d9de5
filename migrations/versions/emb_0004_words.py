"""What text indexes need: columns of words and their index, on PostgreSQL."""

from alembic import op

from embeddings.tables.revisions import add, take_away

revision = "emb_0004"
down_revision = "emb_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add(op, "words")


def downgrade() -> None:
    take_away(op, "words")
