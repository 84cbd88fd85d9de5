"""Customers and their tickets. In the tables there is nothing about embeddings."""

from django.db import models, transaction

from embeddings.integrations.django import ModelCollection


class Customer(models.Model):
    """Whose tickets are nobody else's business."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return str(self.name)


class TicketQuerySet(models.QuerySet):
    """Tickets by who may read them."""

    def readable_by(self, customer: Customer) -> "TicketQuerySet":
        """Return the customer's own tickets that have an answer."""
        return self.filter(customer=customer).exclude(answer="")


class Ticket(models.Model):
    """A question of a customer, and in time its answer."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    subject = models.CharField(max_length=200)
    question = models.TextField()
    answer = models.TextField(blank=True)
    asked = models.DateTimeField(auto_now_add=True)

    objects = TicketQuerySet.as_manager()

    class Meta:
        """A customer asks a thing once."""

        ordering = ("-pk",)
        constraints = (models.UniqueConstraint(fields=("customer", "subject"), name="asked_once"),)

    def __str__(self) -> str:
        return str(self.subject)


# The embeddings of the tickets, in the same database and the same transactions. Whatever changes a
# ticket, triggers note it: see migrations/0002_follow.py.
tickets = ModelCollection(Ticket, text=["subject", "question"])


def save(ticket: Ticket) -> None:
    """Save a ticket and its embedding, or neither."""
    with transaction.atomic():
        ticket.save()
        tickets.refresh(keys=[ticket.pk])
