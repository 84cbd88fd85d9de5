"""The example for Django: its own tests, its commands, and its own server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest
from selenium.webdriver.common.by import By
from sqlalchemy import make_url

from tests.examples.serving import (
    EXAMPLES,
    PATIENCE,
    copied,
    follow,
    python,
    run,
    served,
    usually_on,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium import webdriver
    from selenium.webdriver.remote.webelement import WebElement


# Several commands of manage.py, one after the other.
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
for command in sys.argv[1:]:
    execute_from_command_line(["manage.py", *command.split()])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_database: str) -> Path:
    """A copy of the example, for each database."""
    return copied("django_app", tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def environment(empty_database: str) -> dict[str, str]:
    """Where its database is: on SQLite in its own folder."""
    url = make_url(empty_database)
    if url.get_backend_name() == "sqlite":
        return {}
    return {
        "PGDATABASE": str(url.database),
        "PGUSER": str(url.username),
        "PGHOST": str(url.query["host"]),
    }


@pytest.fixture(scope="module")
def site(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of the help desk with its sample tickets, under Django's own server."""
    # To seed it twice does no harm.
    python("-c", MANAGE, "migrate", "seed", "seed", folder=folder, **environment)
    server = ("manage", "runserver", "0", "--noreload")
    with served(*server, folder=folder, **environment) as address:
        yield address


@usually_on("sqlite")
@pytest.mark.once
def test_its_own_tests_pass(folder: Path, environment: dict[str, str]):
    """On either database; warnings are errors, and no migration is missing."""
    commands = ("makemigrations --check", "test")
    python("-W", "error", "-c", MANAGE, *commands, folder=folder, **environment)


@usually_on("postgresql")
def test_it_is_used_over_http(site: str, folder: Path, environment: dict[str, str]):
    """Search, ask, fail half-way, and see in the end what is there."""
    with httpx.Client(base_url=site, timeout=PATIENCE) as client:

        def subjects(question: str) -> list[str]:
            page = client.get("/bakery/", params={"q": question})
            return re.findall(r'<a href="/bakery/\d+">(.+?)</a>', page.text)

        assert subjects("return the payment to a customer")[0] == "How do I give money back?"
        api = client.get("/bakery/tickets", params={"search": "give a customer money back"})
        assert api.json()["results"][0]["subject"] == "How do I give money back?"
        listed = client.get("/bakery/tickets", params={"ordering": "score"})  # of no search
        assert "score" not in listed.json()["results"][0]
        assert "Refund for a cancelled film" not in subjects("cancelled film")
        assert "The screen is frozen" not in subjects("the screen is frozen")

        link = re.search(r'"/bakery/\d+"', client.get("/bakery/?q=money back").text)
        assert link is not None
        assert "Like this" in client.get(link[0].strip('"')).text

        token = re.findall(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/bakery/ask").text)
        form = {"subject": "Glücksrad 🎡", "question": "?", "csrfmiddlewaretoken": token[0]}
        assert client.post("/bakery/ask", data=form).status_code == 302
        assert client.post("/bakery/ask", data=form).status_code == 400

        new = {"subject": "Rye bread", "question": "rye", "answer": "yes"}
        again = {"subject": "Glücksrad 🎡", "question": "again"}
        assert client.post("/bakery/import", json=[new, again]).status_code == 400
        assert "Rye bread" not in subjects("rye bread")
        assert client.post("/bakery/import", json=[new]).status_code == 201
        assert subjects("rye bread")[0] == "Rye bread"

    status = run("manage", "embeddings", "status", folder=folder, **environment)
    # Ten samples, one that was asked and one that was imported.
    assert re.search(r"helpdesk.ticket +\S+ +256 +12 ", status), status


@pytest.mark.once
@usually_on("sqlite")
def test_the_admin_in_a_browser(
    site: str, folder: Path, environment: dict[str, str], browser: webdriver.Chrome
):
    """Found by meaning, the nearest first, or by a column; embedded when saved."""
    superuser = ("createsuperuser", "--noinput", "--username=agent", "--email=a@example.org")
    password = environment | {"DJANGO_SUPERUSER_PASSWORD": "agent"}
    run("manage", *superuser, folder=folder, **password)

    def field(name: str) -> WebElement:
        return browser.find_element(By.NAME, name)

    def subjects() -> list[str]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#result_list th.field-subject a")
        return [row.text for row in rows]

    def button(selector: str) -> None:
        follow(browser, browser.find_element(By.CSS_SELECTOR, selector))

    browser.get(f"{site}/admin/helpdesk/ticket/")
    field("username").send_keys("agent")
    field("password").send_keys("agent")
    button("[type=submit]")
    field("q").send_keys("return the payment to a customer")
    button("#changelist-search [type=submit]")
    assert subjects()[0] == "How do I give money back?"
    follow(browser, browser.find_element(By.LINK_TEXT, "How do I give money back?"))
    field("subject").clear()
    field("subject").send_keys("A cat in the oven")
    field("question").clear()
    field("question").send_keys("There is a kitten where the bread should be.")
    button("[name=_save]")
    browser.get(f"{site}/admin/helpdesk/ticket/?q=kitten")
    assert subjects()[0] == "A cat in the oven"
    button("th.column-subject a")
    assert subjects() == sorted(subjects(), key=str.casefold)
    assert len(subjects()) > 5


# What Django's own commands make, and a visitor.
BEGIN = """
from django.core.management import call_command
call_command("startproject", "mysite", ".")
call_command("startapp", "articles")
"""
FIRST = """
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
from django.core.management import call_command
call_command("makemigrations", "articles", verbosity=0)
"""
USE = """
import asyncio, os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
from django.core.management import call_command
call_command("makemigrations", check_changes=True, dry_run=True)
call_command("migrate", verbosity=0)
call_command("check", databases=["default"])
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
client = Client()
for title in ("my happy hound", "my dissatisfied cat"):
    assert client.post("/write", {"title": title}).status_code == 201
print(list(client.get("/search?q=a cheerful dog").json()))
print([row["title"] for row in client.get("/api?search=a cheerful dog").json()["results"]])

async def visit():
    visitor = AsyncClient()
    assert (await visitor.post("/awrite", {"title": "a tax report"})).status_code == 201
    print(list((await visitor.get("/asearch?q=taxes")).json()))

asyncio.run(visit())
from unittest.mock import patch
from embeddings import UnavailableError
service = "embeddings.models.local.WordLlamaModel.embed_batch"
with patch(service, side_effect=UnavailableError("down")):
    paths = ["/search?q=", "/search?q=a%00b", "/api?search=a%00b", "/asearch?q=a%00b"]
    print([client.get(path).status_code for path in paths])
    paths = ["/search?q=new", "/api?search=new", "/asearch?q=new"]
    print([client.get(path).status_code for path in paths])
client.force_login(User.objects.create_superuser("editor"))
form = {"title": "a purring cat", "lang": "en", "published": "on"}
assert client.post("/admin/articles/article/add/", form).status_code == 302
assert "a purring cat" in client.get("/admin/articles/article/?q=kitten").text
call_command("embeddings", "status")
from articles.models import Article
Article.objects.filter(title="a tax report").update(title="a report on taxes")
call_command("embeddings", "refresh")
call_command("embeddings", "sync")
call_command("embeddings", "check")
print(client.get("/words?q=dissatisfied").json())
from articles.passages import best, passages
story = "A story\\n\\n" + "\\n\\n".join(f"My happy hound met cat {n}. " * 10 for n in range(5))
article = Article.objects.create(title="A story", body=story.replace("cat 3", "a tax collector"))
passages.embed_multi(Article.objects.all())
print("passage", best("taxes")[article.pk].count("a tax collector"))
call_command("test", "articles")
"""
REMAKE = """
import os, sys, django
from pathlib import Path
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
from django.core.management import CommandError, call_command
from django.db import models
from articles.models import Article

follow = Path("articles/migrations/0002_follow.py").read_text().partition("operations = [")[2]
follow = follow.rpartition("]")[0]
alter = "migrations.AlterField('article', 'title', models.CharField(max_length={}))"

def migrated(number, *operations):
    code = ["from django.db import migrations, models"]
    code += ["from embeddings.integrations.django.operations import FollowRows"]
    code += ["class Migration(migrations.Migration):"]
    code += [f"    dependencies = [('articles', '000{number - 1}_' + {names[number - 1]!r})]"]
    code += [f"    operations = [{', '.join(operations)}]"]
    names[number] = "later"
    Path(f"articles/migrations/000{number}_later.py").write_text(chr(10).join(code))
    call_command("migrate", "articles", verbosity=0)
    for command in ("status", "check"):
        try:
            call_command("embeddings", command)
        except CommandError as error:
            print(number, command, error)

names = {3: "words"}
call_command("embeddings", "refresh", "articles.article")
migrated(4, alter.format(300))
migrated(5, follow)
migrated(6, alter.format(400), follow)
Article.objects.update(body="once more")
call_command("embeddings", "refresh", "articles.article")
"""
SETTINGS = """
INSTALLED_APPS += ["articles"]
INSTALLED_APPS[INSTALLED_APPS.index("embeddings.integrations.django")] = "mysite.apps.Vectors"
ALLOWED_HOSTS = ["testserver"]
MIDDLEWARE.remove("django.middleware.csrf.CsrfViewMiddleware")
"""
URLS = """
from articles import api, async_views, views
from django.contrib import admin
from django.urls import path
urlpatterns = [
    path("write", views.write), path("search", views.search), path("api", api.Articles.as_view()),
    path("words", views.search_words),
    path("awrite", async_views.write), path("asearch", async_views.search),
    path("admin/", admin.site.urls),
]
"""


@pytest.mark.once
def test_the_lines_of_the_documentation(tmp_path: Path):
    """Added to a new project of Django's, they are enough."""
    folder = tmp_path / "django_app"  # so that its programs find Django imported
    folder.mkdir()
    lines: dict[str, str] = {}
    for page in sorted((EXAMPLES.parent / "docs").glob("django*.md")):
        for name, added in re.findall(
            r"```python\n# ([\w/]+\.py)\n(.*?)```", page.read_text(), re.DOTALL
        ):
            lines[name] = lines.get(name, "") + added
    assert len(lines) == 12
    python("-c", BEGIN, folder=folder)
    lines["mysite/settings.py"] += SETTINGS
    lines["mysite/urls.py"] = URLS
    migrations = {
        name: lines.pop(name).replace('("embeddings"', '("vectors"')
        for name in [name for name in lines if "/migrations/" in name]
    }
    for name, added in lines.items():
        with (folder / name).open("a") as file:
            file.write(added)
    python("-c", FIRST, folder=folder)
    for name, migration in migrations.items():
        (folder / name).write_text(migration)
    output = python("-c", USE, folder=folder)
    assert output.count("['my happy hound', 'my dissatisfied cat']") == 2
    assert "['a tax report'" in output
    assert "[400, 400, 400, 400]" in output
    assert "[503, 503, 503]" in output
    assert "up to date" in output
    assert "articles.article: 1 embedded" in output
    assert "0 stale, 0 missing, 0 orphaned, 0 pending" in output
    assert re.search(r"articles.article +\S+ +256 +4 ", output)
    assert "{'my dissatisfied cat': [1, " in output
    assert "passage 10" in output

    # SQLite makes a table anew to alter a field, and forgets its triggers.
    output = python("-c", REMAKE, folder=folder)
    assert output.count("the triggers on 'articles_article' are missing") == 2
    told = [line for line in output.splitlines() if re.match(r"\d (status|check) ", line)]
    assert [line.split()[:2] for line in told] == [["4", "status"], ["4", "check"]], output
    assert told[0] == "4 status There are triggers that are not in place."
    assert output.count("FollowRows(...), behind what changed the table") == 1
    assert "articles.article: 5 embedded" in output
