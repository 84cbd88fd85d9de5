"""Django's migrations: one for each Alembic revision."""
