"""The documented schema; tables that `llm` made, of any age, are brought up to it.

No table is ever rebuilt: one that is recreated loses its triggers, and under a cascade its rows.
"""

import hashlib

import sqlalchemy as sa
from alembic import context, op

from embeddings import databases
from embeddings.errors import SchemaError
from embeddings.tables.columns import BinaryText, JSONObject, Vector
from embeddings.tables.ours import schema_of

revision = "emb_0001"
down_revision = None
branch_labels = None
depends_on = None


REMEDY = (
    "Delete them first, or say so: downgrade(..., drop_rows=True); in a shell: "
    "alembic -x drop=yes downgrade REVISION, or flask db downgrade -x drop=yes"
)


def upgrade() -> None:
    if op.get_context().as_sql:
        if op.get_context().dialect.name == "postgresql":
            op.execute("CREATE EXTENSION IF NOT EXISTS vector")
        create()
        return
    connection = op.get_bind()
    databases.of(connection.dialect).before_create(connection)
    if sa.inspect(connection).has_table("collections", schema_of(connection)):
        adopt(connection)
    else:
        create()


def create() -> None:
    op.create_table(
        "collections",
        sa.Column("id", sa.Integer, primary_key=True, nullable=True),
        sa.Column("name", BinaryText),
        sa.Column("model", sa.Text),
    )
    op.create_index("idx_collections_name", "collections", ["name"], unique=True)
    op.create_table(
        "embeddings",
        sa.Column(
            "collection_id",
            sa.Integer,
            sa.ForeignKey("collections.id"),
            primary_key=True,
            nullable=True,
        ),
        sa.Column("id", BinaryText, primary_key=True, nullable=True),
        sa.Column("embedding", Vector),
        sa.Column("content", sa.Text),
        sa.Column("content_blob", sa.LargeBinary),
        sa.Column("content_hash", sa.LargeBinary),
        sa.Column("metadata", JSONObject),
        sa.Column("updated", sa.Integer),
    )
    op.create_index("idx_embeddings_content_hash", "embeddings", ["content_hash"])


def adopt(connection: sa.Connection) -> None:
    inspector, schema = sa.inspect(connection), schema_of(connection)
    present = {column["name"] for column in inspector.get_columns("embeddings", schema)}
    for column in (
        sa.Column("content_blob", sa.LargeBinary),
        sa.Column("content_hash", sa.LargeBinary),
        sa.Column("updated", sa.Integer),
    ):
        if column.name not in present:
            op.add_column("embeddings", column)
    for table, column_name, unique in (
        ("collections", "name", True),
        ("embeddings", "content_hash", False),
    ):
        indexed = [index["column_names"] for index in inspector.get_indexes(table, schema)]
        if [column_name] not in indexed:
            op.create_index(f"idx_{table}_{column_name}", table, [column_name], unique=unique)
    if "content_hash" not in present:
        hash_stored_contents(connection)


def hash_stored_contents(connection: sa.Connection) -> None:
    rows = connection.execute(
        # As bytes: SQLite keeps in a TEXT column whatever one puts there.
        sa.text("SELECT rowid, CAST(content AS BLOB) FROM embeddings WHERE content IS NOT NULL")
    )
    update = sa.text("UPDATE embeddings SET content_hash = :hash WHERE rowid = :rowid")
    for part in rows.partitions(1000):
        connection.execute(
            update,
            [
                {
                    "rowid": rowid,
                    "hash": hashlib.md5(content, usedforsecurity=False).digest(),
                }
                for rowid, content in part
            ],
        )


def downgrade() -> None:
    if not op.get_context().as_sql:
        tables = (sa.Table(name, sa.MetaData()) for name in ("collections", "embeddings"))
        counts = (sa.select(sa.func.count()).select_from(table) for table in tables)
        rows = sum(op.get_bind().scalar(count) for count in counts)
        told = context.config.attributes.get("drop_rows") or (
            context.get_x_argument(as_dictionary=True).get("drop") == "yes"
        )
        if rows and not told:
            raise SchemaError(
                f"Going back would drop {rows} rows of collections and embeddings. "
                + context.config.attributes.get("remedy", REMEDY)
            )
    op.drop_table("embeddings")
    op.drop_table("collections")
