"""The admin: found by meaning in the list, embedded when saved."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import messages
from django.contrib.admin.views.main import ORDER_VAR
from django.db import router, transaction

from ...errors import InvalidItemError, TooLongError
from ...following.pending import message_of

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet
    from django.http import HttpRequest

    from .collection import ModelCollection

LOG = logging.getLogger(__name__)


class EmbeddingsAdmin:
    """For a `ModelAdmin`: its search field searches by meaning, and what it saves is embedded.

        class TicketAdmin(EmbeddingsAdmin, admin.ModelAdmin):
            embeddings = tickets

    The list shows the nearest first, unless a column was chosen to order it by. What is saved is
    embedded once the admin's transaction is committed, so that none is open while the model runs;
    if the model fails, the row is saved all the same, and a message says so.
    """

    embeddings: ClassVar[ModelCollection[Any]]
    """The collection of the admin's model."""
    embeddings_number: ClassVar[int] = 100
    """The most results of a search."""
    embeddings_score: ClassVar[str] = "score"
    """The name of the annotation, another one if the model has something of that name."""

    def get_search_fields(self, request: HttpRequest) -> Any:
        """Return something, so that there is a search field."""
        return super().get_search_fields(request) or ("pk",)  # type: ignore[misc]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Return the rows nearest to what was typed, best first."""
        if not search_term.strip():
            return queryset, False
        try:
            found = self.embeddings.nearest(
                queryset, search_term, self.embeddings_number, score=self.embeddings_score
            )
        except (InvalidItemError, TooLongError) as error:  # such as NUL in the text
            messages.warning(request, str(error))
            return queryset.none(), False
        if ORDER_VAR in request.GET:
            found = found.order_by(*queryset.query.order_by)
        return found, False

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        """Save the row, and embed it after the commit."""
        super().save_model(request, obj, form, change)  # type: ignore[misc]

        def embed() -> None:
            try:
                self.embeddings.embed(obj)
            except Exception as error:  # noqa: BLE001  the row is committed, whatever it is
                reason = message_of(error)
                LOG.warning("%s %r has no new embedding: %s", obj._meta.label, obj.pk, reason)
                messages.warning(request, f"{obj} is saved, but its embedding is not: {reason}")

        transaction.on_commit(embed, using=router.db_for_write(type(obj), instance=obj))
