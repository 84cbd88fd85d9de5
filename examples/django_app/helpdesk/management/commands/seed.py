"""manage.py seed: the sample tickets."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from helpdesk.models import Customer, Ticket, tickets


class Command(BaseCommand):
    """Adds the sample tickets."""

    help = "Add the sample tickets, and embed them."

    def handle(self, *args: Any, **options: Any) -> None:
        """Save them in bulk, and embed what the triggers have noted."""
        for sample in json.loads((Path(__file__).parents[2] / "sample.json").read_text("utf-8")):
            customer, _ = Customer.objects.get_or_create(slug=sample["slug"], name=sample["name"])
            new = (Ticket(customer=customer, **ticket) for ticket in sample["tickets"])
            Ticket.objects.bulk_create(new, ignore_conflicts=True)
        tickets.refresh()
