"""The app: its settings, and what happens at `manage.py migrate`, `check` and `flush`."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed
from django.db.models.signals import post_migrate

from . import conf
from .database import empty_after_flush


class EmbeddingsConfig(AppConfig):
    """The app `embeddings`; its tables are those of this library, and it has no Django models."""

    name = "embeddings.integrations.django"
    label = "embeddings"
    verbose_name = "Embeddings"

    def ready(self) -> None:
        """Take over the settings, and again whenever a test overrides them."""
        conf.apply()
        setting_changed.connect(conf.apply_changed, dispatch_uid="embeddings")
        post_migrate.connect(empty_after_flush, sender=self, dispatch_uid="embeddings")
        checks.register(conf.check, "embeddings")
