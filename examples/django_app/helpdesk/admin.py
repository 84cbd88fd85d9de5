"""The admin: tickets are found by their meaning here too, and embedded when they are saved."""

from django.contrib import admin

from embeddings.integrations.django.admin import EmbeddingsAdmin

from .models import Customer, Ticket, tickets

admin.site.register(Customer)


@admin.register(Ticket)
class TicketAdmin(EmbeddingsAdmin, admin.ModelAdmin):
    """Tickets, to be answered. What is deleted here takes its embedding along."""

    embeddings = tickets
    list_display = ("subject", "customer", "asked")
    list_filter = ("customer",)
    list_select_related = ("customer",)
