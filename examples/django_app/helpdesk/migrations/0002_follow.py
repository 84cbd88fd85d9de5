"""Triggers that note which tickets change, whoever changes them."""

from django.db import migrations

from embeddings.integrations.django.operations import FollowRows


class Migration(migrations.Migration):
    """What text, metadata and condition of the collection read, in literals."""

    dependencies = [("helpdesk", "0001_initial"), ("embeddings", "0003_pending")]

    operations = [
        FollowRows(
            "helpdesk_ticket",
            key="id",
            columns=["subject", "question"],
            collection="helpdesk.ticket",
        ),
    ]
