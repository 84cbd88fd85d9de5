"""What collections with chunks need: columns of them, on PostgreSQL."""

import sqlalchemy as sa
from alembic import op

from embeddings import databases
from embeddings.tables.records import RECORDS

revision = "emb_0005"
down_revision = "emb_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    database = databases.of(op.get_context().dialect)
    if not op.get_context().as_sql:
        database.install_chunks(op.get_bind(), RECORDS)
        return
    for statement in database.chunks_script(RECORDS):
        op.execute(sa.text(statement.replace(":", "\\:")))


def downgrade() -> None:
    database = databases.of(op.get_context().dialect)
    if not op.get_context().as_sql:
        database.uninstall_chunks(op.get_bind(), RECORDS)
        return
    for statement in database.chunks_script_down(RECORDS):
        op.execute(sa.text(statement))
