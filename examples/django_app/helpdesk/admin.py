"""The admin: tickets are found by their meaning here too."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from .models import Customer, Ticket, tickets

admin.site.register(Customer)


@admin.register(Ticket)
class TicketAdmin(admin.ModelAdmin):
    """Tickets, to be answered. What is deleted here takes its embedding along."""

    list_display = ("subject", "customer", "asked")
    list_select_related = ("customer",)
    search_fields = ("subject",)

    def save_model(self, request: HttpRequest, obj: Ticket, form: Any, change: bool) -> None:
        """Save the embedding as well, in the admin's own transaction."""
        super().save_model(request, obj, form, change)
        tickets.embed(obj)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """Return the tickets nearest to what was typed."""
        if not search_term:
            return queryset, False
        return tickets.nearest(queryset, search_term, number=20), False
