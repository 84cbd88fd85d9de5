"""A REST API with Django REST framework: answered tickets, by meaning, in pages."""

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from rest_framework import filters, generics, pagination, renderers, serializers

from embeddings.integrations.django.rest import EmbeddingsFilter

from .models import Customer, Ticket, tickets


class TicketSerializer(serializers.ModelSerializer):
    """A ticket, and how near it is to what was asked for."""

    score = serializers.FloatField(read_only=True)

    class Meta:
        """What a customer sees."""

        model = Ticket
        fields = ("id", "subject", "answer", "asked", "score")


class Pages(pagination.PageNumberPagination):
    """Five on a page."""

    page_size = 5


class TicketList(generics.ListAPIView):
    """GET /ours/tickets?search=the printer smokes&ordering=-asked."""

    serializer_class = TicketSerializer
    pagination_class = Pages
    renderer_classes = (renderers.JSONRenderer,)
    filter_backends = (EmbeddingsFilter, filters.OrderingFilter)
    ordering_fields = ("asked", "score")
    embeddings = tickets

    def get_queryset(self) -> QuerySet:
        """Return what the customer may read."""
        customer = get_object_or_404(Customer, slug=self.kwargs["slug"])
        return Ticket.objects.readable_by(customer)
