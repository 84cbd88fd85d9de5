"""What a visitor is told where the search fails."""

import logging
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from embeddings import (
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
    ModelError,
    TooLongError,
)


class EmbeddingErrors:
    """Middleware: what cannot be searched for is refused, and a service that fails is away."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request."""
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Return the page for an error of the embeddings; Django has one for all others."""
        if isinstance(error, InvalidQueryError | InvalidItemError | TooLongError):
            message, status = str(error), 400
        elif isinstance(error, ModelError | InvalidVectorError):
            logging.getLogger("helpdesk").error("The embedding model failed", exc_info=error)
            message, status = "This is not available at the moment.", 503
        else:
            return None
        return render(request, "helpdesk/error.html", {"message": message}, status=status)
