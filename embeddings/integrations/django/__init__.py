"""Embeddings in Django's database and Django's transactions.

    INSTALLED_APPS = [..., "embeddings.integrations.django"]
    EMBEDDINGS = {"MODEL": "local"}

`ModelCollection` keeps the embeddings of a Django model's instances; `session` gives a SQLAlchemy
session on Django's own connection, for everything else that this library can do.
"""

from __future__ import annotations

from .collection import ModelCollection
from .database import session
from .tables import records

__all__ = ["ModelCollection", "records", "session"]
