"""The rows that are pending."""

from django.db import migrations

from embeddings.integrations.django.conf import app_label
from embeddings.integrations.django.operations import AlembicRevision


class Migration(migrations.Migration):
    """As Alembic's emb_0003."""

    dependencies = ((app_label(), "0002_change_log"),)
    operations = (AlembicRevision("emb_0003", down="emb_0002"),)
