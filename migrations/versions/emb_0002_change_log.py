"""The change log of SQLite, its triggers, and the rows that tell `llm` how far it is."""

import sqlalchemy as sa
from alembic import op

from embeddings import databases
from embeddings.tables.records import RECORDS

revision = "emb_0002"
down_revision = "emb_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not op.get_context().as_sql:
        databases.of(op.get_bind().dialect).install(op.get_bind(), RECORDS)
        return
    for statement in databases.of(op.get_context().dialect).install_script(RECORDS):
        op.execute(sa.text(statement))


def downgrade() -> None:
    if not op.get_context().as_sql:
        databases.of(op.get_bind().dialect).uninstall(op.get_bind(), RECORDS)
        return
    for statement in databases.of(op.get_context().dialect).uninstall_script(RECORDS):
        op.execute(sa.text(statement))
