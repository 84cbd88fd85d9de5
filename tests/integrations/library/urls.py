"""Views that write an article and its embedding, and then fail or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.urls import path

from .models import Article, articles

if TYPE_CHECKING:
    from django.http import HttpRequest


def write(request: HttpRequest, title: str) -> HttpResponse:
    article = Article.objects.create(title=title)
    articles.embed(article)
    if "fail" in title:
        raise RuntimeError(title)
    return HttpResponse(articles.nearest(Article.objects.all(), title, number=1)[0].title)


async def write_async(request: HttpRequest, title: str) -> HttpResponse:
    return await sync_to_async(write)(request, title)


urlpatterns = [path("write/<title>", write), path("async/<title>", write_async)]
