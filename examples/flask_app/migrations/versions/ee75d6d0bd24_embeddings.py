"""embeddings

Revision ID: ee75d6d0bd24
Revises: d31abe9ab5c1
Create Date: 2026-11-23 01:11:50.265516

"""

from alembic import op

import embeddings


# revision identifiers, used by Alembic.
revision = "ee75d6d0bd24"
down_revision = "d31abe9ab5c1"
branch_labels = None
depends_on = None


def upgrade():
    # The tables that this version of sqlalchemy-embeddings has. When a newer one wants more,
    # `flask embeddings status` says so; then `flask embeddings migrate`, or a revision like this.
    embeddings.migrate(op.get_bind())


def downgrade():
    embeddings.downgrade(op.get_bind())  # refuses while there are vectors to be lost
