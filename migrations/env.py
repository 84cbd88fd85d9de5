"""Alembic's environment: on a connection handed over by `embeddings.migrate`, or from a shell.

From a shell, the database's URL is in EMBEDDINGS_DATABASE_URL, or a path, as for `embeddings`.
"""

import os

from alembic import context
from sqlalchemy import URL, Connection, MetaData, Table, create_engine
from sqlalchemy.schema import DropTable

from embeddings import databases
from embeddings.sessions.open import url_of
from embeddings.sessions.own import owned_transaction
from embeddings.tables.alembic import include_object
from embeddings.tables.ours import VERSION_TABLE, check_adoptable, schema_of
from embeddings.tables.records import Base

URL_VARIABLE = "EMBEDDINGS_DATABASE_URL"


def run(connection: Connection) -> None:
    schema = schema_of(connection)
    check_adoptable(connection)  # before anything is written
    context.configure(
        connection=connection,
        version_table_schema=schema,
        target_metadata=Base.metadata,
        include_object=include_object,
        version_table=VERSION_TABLE,
        transactional_ddl=True,
        render_as_batch=True,
    )
    context.run_migrations()
    if not context.get_context().get_current_heads():  # nothing of ours is to be left
        table = Table(VERSION_TABLE, MetaData(), schema=schema)
        connection.execute(DropTable(table, if_exists=True))


def url() -> URL:
    if value := os.environ.get(URL_VARIABLE):
        given = url_of(value)
        return databases.of_url(given).url(given, asynchronous=False)
    raise SystemExit(f"Set {URL_VARIABLE} to the database's URL, such as sqlite:///app.db")


if context.is_offline_mode():
    context.configure(
        dialect_name=context.config.attributes.get("dialect_name") or url().get_backend_name(),
        literal_binds=True,
        version_table=VERSION_TABLE,
    )
    context.run_migrations()
    if not context.get_revision_argument():
        context.execute(DropTable(Table(VERSION_TABLE, MetaData())))
elif handed_over := context.config.attributes.get("connection"):
    run(handed_over)
else:
    engine = create_engine(url(), hide_parameters=True)
    try:
        with owned_transaction(engine, write=True) as connection:
            run(connection)
    finally:
        engine.dispose()
