"""The change log of SQLite."""

from django.db import migrations

from embeddings.integrations.django.conf import app_label
from embeddings.integrations.django.operations import AlembicRevision


class Migration(migrations.Migration):
    """As Alembic's emb_0002."""

    dependencies = ((app_label(), "0001_documented_schema"),)
    operations = (AlembicRevision("emb_0002", down="emb_0001"),)
