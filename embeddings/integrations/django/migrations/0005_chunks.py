"""The chunks of long texts."""

from django.db import migrations

from embeddings.integrations.django.conf import app_label
from embeddings.integrations.django.operations import AlembicRevision


class Migration(migrations.Migration):
    """As Alembic's emb_0005."""

    dependencies = ((app_label(), "0004_words"),)
    operations = (AlembicRevision("emb_0005", down="emb_0004"),)
