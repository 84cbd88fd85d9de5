"""The pages."""

import json

from django import forms
from django.core.paginator import Paginator
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .models import Customer, Ticket, save, tickets

RESULTS_ON_A_PAGE = 5
RESULTS = 100


class AskForm(forms.ModelForm):
    """The form for a new ticket."""

    class Meta:
        """What a customer writes."""

        model = Ticket
        fields = ("subject", "question")


def home(request: HttpRequest) -> HttpResponse:
    """Let the visitor choose a customer. Another application would know it from the login."""
    return render(request, "helpdesk/home.html", {"customers": Customer.objects.order_by("name")})


def search(request: HttpRequest, slug: str) -> HttpResponse:
    """Show a page of the tickets nearest in meaning to the question, or the newest."""
    customer = get_object_or_404(Customer, slug=slug)
    question = request.GET.get("q", "").strip()
    found = Ticket.objects.readable_by(customer).select_related("customer")
    if question:
        found = tickets.nearest(found, question, number=RESULTS)
    page = Paginator(found, RESULTS_ON_A_PAGE).get_page(request.GET.get("page"))
    context = {"customer": customer, "question": question, "page": page}
    return render(request, "helpdesk/search.html", context)


def show(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show a ticket, and others like it."""
    customer = get_object_or_404(Customer, slug=slug)
    readable = Ticket.objects.readable_by(customer)
    ticket = get_object_or_404(readable, pk=pk)
    more = tickets.related(readable, ticket, number=3)
    context = {"customer": customer, "ticket": ticket, "more": more}
    return render(request, "helpdesk/ticket.html", context)


def ask(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the form; save what it sends."""
    customer = get_object_or_404(Customer, slug=slug)
    return _ask(request, customer, Ticket(customer=customer))


def edit(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show a ticket in the form; save what it sends."""
    customer = get_object_or_404(Customer, slug=slug)
    return _ask(request, customer, get_object_or_404(Ticket, customer=customer, pk=pk))


def _ask(request: HttpRequest, customer: Customer, ticket: Ticket) -> HttpResponse:
    form = AskForm(request.POST or None, instance=ticket)
    context = {"customer": customer, "form": form}
    if request.method != "POST":
        return render(request, "helpdesk/ask.html", context)
    if form.is_valid():
        try:
            save(form.instance)
        except IntegrityError:
            form.add_error("subject", "You have asked this already.")
        else:
            return redirect("search", slug=customer.slug)
    return render(request, "helpdesk/ask.html", context, status=400)


@csrf_exempt
@require_POST
def import_tickets(request: HttpRequest, slug: str) -> HttpResponse:
    """Save a JSON list of answered tickets: all, or if one of them is refused, none."""
    customer = get_object_or_404(Customer, slug=slug)
    with transaction.atomic():
        try:
            with transaction.atomic():  # those before one that is refused are gone again
                new = [
                    Ticket.objects.create(customer=customer, **item)
                    for item in json.loads(request.body)
                ]
        except (IntegrityError, TypeError, ValueError) as error:
            return JsonResponse({"error": type(error).__name__}, status=400)
        tickets.refresh(keys=[ticket.pk for ticket in new])
    return JsonResponse({}, status=201)
