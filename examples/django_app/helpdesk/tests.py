"""What the help desk does. No network, no model; Django rolls every test back."""

import json
import re
from typing import Any
from unittest.mock import patch

from django.contrib.auth.models import User
from django.test import TestCase, TransactionTestCase

from embeddings import UnavailableError
from embeddings.testing import replace_models

from .models import Customer, Ticket, tickets

TICKETS = [
    ("Printer jam", "paper stuck in the printer", "Pull the paper out."),
    ("Printer ink", "the printer prints grey", "A new cartridge."),
    ("Forgotten password", "cannot log in", "Use the link."),
]


MODEL = "embeddings.testing.DeterministicModel.embed_batch"  # stands for a service


def of_two_dimensions(items: list[str]) -> list[list[float]]:
    """Embed as another model than that of the collection does."""
    return [[1.0, 2.0] for _ in items]


class HelpDeskTests(TestCase):
    """The pages of two customers."""

    def setUp(self) -> None:
        """Put a model in which texts that share words are near in place of the real one."""
        self.enterContext(replace_models())
        self.ours, self.theirs = (
            Customer.objects.create(slug=slug, name=slug) for slug in ("ours", "theirs")
        )
        for customer in (self.ours, self.theirs):
            body = [dict(zip(("subject", "question", "answer"), t, strict=True)) for t in TICKETS]
            self.assertEqual(self.send(customer, body), 201)

    def send(self, customer: Customer, body: object) -> int:
        """Import tickets, and return the status of the answer."""
        path = f"/{customer.slug}/import"
        status: int = self.client.post(path, json.dumps(body), "application/json").status_code
        return status

    def subjects(self, path: str) -> list[str]:
        """Return the subjects of the tickets to which a page links."""
        response = self.client.get(path)
        self.assertEqual(response.status_code, 200)
        return re.findall(r'<a href="/ours/\d+">(.+?)</a>', response.text)

    def test_a_ticket_that_is_changed_is_found_by_its_new_words(self) -> None:
        """By the customer whose ticket it is."""
        ticket = Ticket.objects.get(customer=self.ours, subject="Printer ink")
        form = {"subject": "Screen", "question": "it flickers and hums"}
        path = f"/ours/{ticket.pk}/edit"
        self.assertContains(self.client.get(path), "the printer prints grey")
        self.assertEqual(self.client.post(path, form).status_code, 302)
        self.assertEqual(self.subjects("/ours/?q=flickers and hums")[0], "Screen")
        self.assertEqual(self.client.post(f"/theirs/{ticket.pk}/edit", form).status_code, 404)

    def test_the_nearest_in_meaning_come_first(self) -> None:
        """Only the customer's own are found."""
        expected = ["Printer jam", "Printer ink", "Forgotten password"]
        self.assertEqual(self.subjects("/ours/?q=paper stuck in printer"), expected)
        self.assertEqual(len(self.subjects("/ours/")), 3)

    def test_a_question_without_an_answer_is_not_found(self) -> None:
        """It is embedded all the same, and found as soon as it is answered."""
        form = {"subject": "Printer on fire", "question": "smoke"}
        self.assertEqual(self.client.post("/ours/ask", form).status_code, 302)
        self.assertNotIn("Printer on fire", self.subjects("/ours/?q=printer on fire"))
        Ticket.objects.filter(subject="Printer on fire").update(answer="Run!")
        self.assertEqual(self.subjects("/ours/?q=printer on fire")[0], "Printer on fire")

    def test_what_is_asked_twice_is_refused(self) -> None:
        """The ticket is not saved, nor is its embedding."""
        form = {"subject": "Printer jam", "question": "again"}
        response = self.client.post("/ours/ask", form)
        self.assertContains(response, "You have asked this already.", status_code=400)
        self.assertEqual(len(tickets.collection()), 6)

    def test_an_import_that_fails_half_way_leaves_nothing(self) -> None:
        """Neither the ticket before the one that is refused, nor its embedding."""
        body = [{"subject": "New", "question": "new"}, {"subject": "Printer jam", "question": ""}]
        self.assertEqual(self.send(self.ours, body), 400)
        self.assertEqual(self.send(self.ours, [{"colour": "red"}]), 400)
        self.assertEqual(Ticket.objects.count(), 6)
        self.assertEqual(len(tickets.collection()), 6)

    def test_results_come_in_pages(self) -> None:
        """Every ticket is on one of them."""
        body = [{"subject": f"Bill {n}", "question": "a bill", "answer": "-"} for n in range(9)]
        self.assertEqual(self.send(self.ours, body), 201)
        pages = [self.subjects(f"/ours/?q=bill&page={page}") for page in (1, 2, 3)]
        self.assertEqual([len(page) for page in pages], [5, 5, 2])
        self.assertEqual(len({subject for page in pages for subject in page}), 12)
        self.assertContains(self.client.get("/ours/?q=bill&page=2"), 'href="?q=bill&amp;page=3"')
        self.assertEqual(len(self.subjects("/ours/?q=bill&page=x")), 5)

    def test_a_ticket_shows_others_like_it(self) -> None:
        """Without itself and without those of other customers."""
        jam = self.ours.ticket_set.get(subject="Printer jam")
        self.assertEqual(self.subjects(f"/ours/{jam.pk}"), ["Printer ink", "Forgotten password"])
        self.assertEqual(self.client.get(f"/theirs/{jam.pk}").status_code, 404)

    def test_what_cannot_be_searched_for_is_refused(self) -> None:
        """The visitor is told why, and so is the client of the API."""
        for path in ("/ours/?q=%00", "/ours/?q=a%00b", "/ours/tickets?search=a%00b"):
            response = self.client.get(path)
            self.assertContains(response, "NUL", status_code=400)

    def test_a_service_that_fails(self) -> None:
        """A search asks to come back later; nothing is saved without its embedding."""
        new = {"subject": "Ferry", "question": "when does it leave"}
        for fails in (UnavailableError("The service is down"), of_two_dimensions):
            with (
                self.subTest(fails=fails),
                patch(MODEL, side_effect=fails),
                self.assertLogs("helpdesk", "ERROR"),
            ):
                for path in ("/ours/?q=ferry", "/ours/tickets?search=ferry"):
                    self.assertContains(self.client.get(path), "at the moment", status_code=503)
                self.assertEqual(self.client.post("/ours/ask", new).status_code, 503)
                self.assertEqual(self.send(self.ours, [new]), 503)
        self.assertFalse(Ticket.objects.filter(subject="Ferry").exists())

    def test_a_customer_takes_everything_along(self) -> None:
        """The embeddings are deleted with the tickets."""
        self.theirs.delete()
        self.assertEqual(
            set(tickets.collection().ids()), set(Ticket.objects.values_list("pk", flat=True))
        )

    def test_the_api(self) -> None:
        """The nearest come first, in pages, in another order if that is asked for."""
        body = [{"subject": f"Bill {n}", "question": "a bill", "answer": "-"} for n in range(9)]
        self.assertEqual(self.send(self.ours, body), 201)

        def get(query: str) -> dict[str, Any]:
            response = self.client.get(f"/ours/tickets?{query}")
            self.assertEqual(response.status_code, 200)
            return response.json()

        found = get("search=paper stuck in the printer")
        self.assertEqual((found["count"], len(found["results"])), (12, 5))
        self.assertEqual(found["results"][0]["subject"], "Printer jam")
        self.assertGreater(found["results"][0]["score"], found["results"][1]["score"])
        self.assertEqual(len(get("search=bill&page=3")["results"]), 2)
        oldest = get("search=bill&ordering=asked")["results"]
        self.assertEqual(
            [ticket["subject"] for ticket in oldest[:2]], ["Printer jam", "Printer ink"]
        )
        self.assertEqual(get("")["count"], 12)
        self.assertNotIn("score", get("")["results"][0])
        self.assertEqual(self.client.get("/ours/tickets?search=%00x").status_code, 400)
        self.assertEqual(self.client.get("/nobody/tickets").status_code, 404)

    def test_the_admin(self) -> None:
        """It finds by meaning, embeds what it saves, and deletes the embeddings with the rows."""
        self.client.force_login(User.objects.create_superuser("agent"))
        jam = self.ours.ticket_set.get(subject="Printer jam")
        form = {"customer": self.ours.pk, "subject": "Zebra", "question": "zebra", "answer": ""}
        with self.captureOnCommitCallbacks(execute=True):
            response = self.client.post(f"/admin/helpdesk/ticket/{jam.pk}/change/", form)
        self.assertEqual(response.status_code, 302)
        self.assertEqual(tickets.nearest(Ticket.objects.all(), "zebra", number=1).get(), jam)
        self.assertContains(self.client.get("/admin/helpdesk/ticket/?q=zebra"), "Zebra")
        rows = r'/change/[^"]*">([^<]+)</a></th>'
        page = self.client.get(f"/admin/helpdesk/ticket/?q=cannot log in&customer={self.ours.pk}")
        self.assertEqual(re.findall(rows, page.text)[0], "Forgotten password")
        page = self.client.get("/admin/helpdesk/ticket/?q=the printer prints grey&o=1")
        subjects = re.findall(rows, page.text)
        self.assertEqual(subjects, sorted(subjects))
        form = {"action": "delete_selected", "_selected_action": [jam.pk], "post": "yes"}
        self.client.post("/admin/helpdesk/ticket/", form)
        self.assertEqual(len(tickets.collection()), 5)


class AdminTests(TransactionTestCase):
    """The admin commits, and then calls the model."""

    def test_a_model_that_fails(self) -> None:
        """The ticket is saved all the same, and the page says what is missing."""
        self.client.force_login(User.objects.create_superuser("agent"))
        customer = Customer.objects.create(slug="ours", name="ours")
        form = {"customer": customer.pk, "subject": "Zebra", "question": "z", "answer": ""}
        fails = patch(MODEL, return_value=[])
        with replace_models(), fails:
            self.client.post("/admin/helpdesk/ticket/add/", form)
        self.assertEqual(Ticket.objects.get().subject, "Zebra")
        self.assertContains(self.client.get("/admin/"), "Zebra is saved, but its embedding is not")
        self.assertEqual(len(tickets.collection()), 0)
