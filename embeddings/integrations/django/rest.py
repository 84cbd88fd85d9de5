"""Django REST framework: a filter that searches by meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.settings import api_settings

from ...errors import InvalidItemError, TooLongError
from .ranking import unscored

if TYPE_CHECKING:
    from django.db.models import QuerySet


class EmbeddingsFilter(BaseFilterBackend):
    """What is nearest to `?search=`, best first; without it, the queryset as it is.

        class Tickets(ListAPIView):
            filter_backends = (EmbeddingsFilter, OrderingFilter)
            embeddings = tickets

    The view has the collection as `embeddings`, and may have `embeddings_number`, the most results
    of a search, 100 by default. The rows that are found have a `score`, for a field of the
    serializer; `embeddings_score` of the view gives it another name, if the model has something of
    that one. Filters behind it narrow what was found, those before it what is searched; one that
    orders by the score is not refused without `?search=`, and orders nothing.
    """

    search_param = api_settings.SEARCH_PARAM
    search_description = "What to search for, by meaning."

    def filter_queryset(self, request: Any, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        """Return the rows nearest to what the request asks for.

        Raises:
            ValidationError: It cannot be searched for.
        """
        text = request.query_params.get(self.search_param, "").strip()
        score = getattr(view, "embeddings_score", "score")
        if not text:
            return unscored(queryset, score)
        number = getattr(view, "embeddings_number", 100)
        try:
            found: QuerySet[Any] = view.embeddings.nearest(queryset, text, number, score=score)
        except (InvalidItemError, TooLongError) as error:
            raise ValidationError({self.search_param: [str(error)]}) from None
        return found

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return the parameter for an OpenAPI schema."""
        return [
            {
                "name": self.search_param,
                "required": False,
                "in": "query",
                "description": self.search_description,
                "schema": {"type": "string"},
            }
        ]
