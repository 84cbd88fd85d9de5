"""The words of text indexes."""

from django.db import migrations

from embeddings.integrations.django.conf import app_label
from embeddings.integrations.django.operations import AlembicRevision


class Migration(migrations.Migration):
    """As Alembic's emb_0004."""

    dependencies = ((app_label(), "0003_pending"),)
    operations = (AlembicRevision("emb_0004", down="emb_0003"),)
