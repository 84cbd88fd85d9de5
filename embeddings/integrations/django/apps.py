"""The app: its settings, and what happens at `manage.py migrate`, `check` and `flush`."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed
from django.db.models.signals import post_migrate, pre_migrate

from . import conf
from .checking import check_declarations, check_tables, tell_of_triggers
from .schema import after_migration, before_migration


class EmbeddingsConfig(AppConfig):
    """The app `embeddings`; its tables are those of this library, and it has no Django models.

    A project that has an app of this label already inherits from it, with another `label`.
    """

    name = conf.APP
    label = "embeddings"
    verbose_name = "Embeddings"

    def ready(self) -> None:
        """Take over the settings, and again whenever a test overrides them."""
        conf.apply()
        setting_changed.connect(conf.apply_changed, dispatch_uid="embeddings")
        pre_migrate.connect(before_migration, sender=self, dispatch_uid="embeddings")
        post_migrate.connect(after_migration, sender=self, dispatch_uid="embeddings")
        post_migrate.connect(tell_of_triggers, sender=self, dispatch_uid="embeddings triggers")
        checks.register(conf.check, "embeddings")
        checks.register(check_declarations, "embeddings")
        checks.register(check_tables, "embeddings", checks.Tags.database)
