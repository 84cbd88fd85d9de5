"""A Django app's models, with each kind of primary key, and their collections."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models

from embeddings import EmbeddingModel
from embeddings.integrations.django import ModelCollection
from embeddings.testing import DeterministicModel


class Author(models.Model):
    name = models.CharField(max_length=50)


class Article(models.Model):
    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, null=True, on_delete=models.CASCADE)
    published = models.BooleanField(default=True)
    price = models.DecimalField(max_digits=6, decimal_places=2, default="1.50")
    written = models.DateTimeField(null=True)
    tags = models.JSONField(default=dict)
    external = models.UUIDField(default=uuid.uuid4)

    class Meta:
        ordering = ("-title",)


class Comment(models.Model):
    article = models.ForeignKey(Article, on_delete=models.PROTECT, related_name="comments")
    text = models.CharField(max_length=50)


class Essay(Article):
    """Its primary key is its parent's row."""

    pages = models.IntegerField(default=1)


class Photo(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    caption = models.CharField(max_length=50)


class Country(models.Model):
    code = models.CharField(primary_key=True, max_length=20)
    name = models.CharField(max_length=50)


class Reading(models.Model):
    at = models.DateTimeField(primary_key=True)


class Game(models.Model):
    score = models.IntegerField()


class Tag(models.Model):
    name = models.CharField(max_length=50)


class Leaflet(models.Model):
    """Of which some rows are in the collection."""

    title = models.CharField(max_length=50)
    body = models.TextField(null=True)
    lang = models.CharField(max_length=2, default="en")
    published = models.BooleanField(default=True)
    author = models.ForeignKey(Author, null=True, on_delete=models.SET_NULL)
    tags = models.ManyToManyField(Tag)


class OldLeaflet(Leaflet):
    """The same rows."""

    class Meta:
        proxy = True


class Watched(DeterministicModel):
    """Tells at each call what `look` sees."""

    def __init__(self) -> None:
        super().__init__("watched")
        self.look: Any = lambda: None
        self.seen: list[Any] = []

    def embed_batch(self, items: Any) -> Any:
        self.seen.append(self.look())
        return super().embed_batch(items)


model = Watched()
articles = ModelCollection(Article, text="title", model=model)
essays = ModelCollection(Essay, text="title", model=model)
photos = ModelCollection(Photo, text="caption", model=model)
countries = ModelCollection(Country, text=lambda country: country.name, model=model)
leaflets: ModelCollection[Leaflet] = ModelCollection(
    "library.Leaflet",
    text=["title", "body", "author__name", "tags__name"],
    where=models.Q(published=True),
    metadata=["lang", "author", "tags__name"],
    model=model,
)


class Unused(EmbeddingModel):
    """What an application passes as EMBEDDINGS["MODEL"]."""

    model_id = "unused"

    def embed_batch(self, items: Any) -> Any:
        return [[1.0]] * len(items)
