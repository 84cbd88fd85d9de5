"""The rows that are pending, to which triggers on hosts' tables append."""

import sqlalchemy as sa
from alembic import op

from embeddings import databases
from embeddings.tables.records import RECORDS

revision = "emb_0003"
down_revision = "emb_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    database = databases.of(op.get_context().dialect)
    if not op.get_context().as_sql:
        database.install_pending(op.get_bind(), RECORDS)
        return
    for statement in database.pending_script(RECORDS):
        op.execute(sa.text(statement.replace(":", "\\:")))


def downgrade() -> None:
    database = databases.of(op.get_context().dialect)
    if not op.get_context().as_sql:
        database.uninstall_pending(op.get_bind(), RECORDS)
        return
    for statement in database.pending_script_down(RECORDS):
        op.execute(sa.text(statement))
