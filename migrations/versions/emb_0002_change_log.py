"""The change log of SQLite, its triggers, and the rows that tell `llm` how far it is."""

import sqlalchemy as sa
from alembic import op

from embeddings.databases.sqlite.changelog import install, side_tables, side_tables_down

revision = "emb_0002"
down_revision = "emb_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not op.get_context().as_sql:
        install(op.get_bind())
    elif op.get_context().dialect.name == "sqlite":
        for statement in side_tables():
            op.execute(sa.text(statement))


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for statement in side_tables_down():
            op.execute(sa.text(statement))
