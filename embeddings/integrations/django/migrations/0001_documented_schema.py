"""The two tables."""

from django.db import migrations

from embeddings.integrations.django.operations import AlembicRevision


class Migration(migrations.Migration):
    """As Alembic's emb_0001."""

    initial = True
    operations = (AlembicRevision("emb_0001", down="base"),)
