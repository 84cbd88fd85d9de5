"""What text indexes need: columns of words and their index, on PostgreSQL."""

import sqlalchemy as sa
from alembic import op

from embeddings import databases
from embeddings.tables.records import RECORDS

revision = "emb_0004"
down_revision = "emb_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    database = databases.of(op.get_context().dialect)
    if not op.get_context().as_sql:
        database.install_words(op.get_bind(), RECORDS)
        return
    for statement in database.words_script(RECORDS):
        op.execute(sa.text(statement.replace(":", "\\:")))


def downgrade() -> None:
    database = databases.of(op.get_context().dialect)
    if not op.get_context().as_sql:
        database.uninstall_words(op.get_bind(), RECORDS)
        return
    for statement in database.words_script_down(RECORDS):
        op.execute(sa.text(statement))
