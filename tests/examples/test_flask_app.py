"""The example for Flask: its own tests, its commands, its server, and its pages in a browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest
from selenium.webdriver.common.by import By

from tests.examples.serving import PATIENCE, copied, follow, run, run_its_tests, served, usually_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium import webdriver
    from selenium.webdriver.remote.webelement import WebElement


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example."""
    return copied("flask_app", tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def site(folder: Path, empty_database: str) -> Iterator[str]:
    """The address of the application with its sample articles, under Flask's own server."""
    environment = {"FLASK_SQLALCHEMY_DATABASE_URI": empty_database}
    run("flask", "db", "upgrade", folder=folder, **environment)
    run("flask", "seed", folder=folder, **environment)
    with served("flask", "run", "--port", "0", folder=folder, **environment) as address:
        yield address


@usually_on("sqlite")
def test_its_own_tests_pass(folder: Path, empty_database: str):
    """On either database; warnings are errors."""
    output = run_its_tests(folder, empty_database)
    assert " passed" in output


@usually_on("postgresql")
def test_it_is_used_over_http(site: str, folder: Path, empty_database: str):
    """Search, write, fail half-way, and see in the end what is there."""
    with httpx.Client(base_url=site, timeout=PATIENCE) as client:

        def titles(question: str) -> list[str]:
            page = client.get("/kitchen/", params={"q": question})
            return re.findall(r'<a href="/kitchen/\d+">(.+?)</a>', page.text)

        assert titles("my blade is blunt")[0] == "Sharpening a knife"
        assert "The price of saffron" not in titles("the price of saffron")
        assert "Night trains, a short guide" not in titles("night trains")

        form = {"title": "Gefrorenes Eis 🍨", "text": "cream, sugar, a very cold bowl"}
        written = client.post("/kitchen/write", data={**form, "published": "on"})
        assert written.status_code == 302
        assert "Gefrorenes Eis 🍨" in client.get(written.headers["Location"]).text

        new = {"title": "Rye bread", "text": "rye"}
        refused = client.post("/kitchen/import", json=[new, form])
        assert refused.status_code == 409
        assert "Rye bread" not in titles("rye bread")

    status = run(
        *("flask", "embeddings", "status", "--json"),
        folder=folder,
        FLASK_SQLALCHEMY_DATABASE_URI=empty_database,
    )
    assert '"rows": 12' in status  # eleven samples that are no drafts, and one that was written
    assert '"pending": 0, "problems": []' in status


@pytest.mark.once
@usually_on("sqlite")
def test_its_pages_in_a_browser(site: str, browser: webdriver.Chrome):
    """A visitor asks, turns the page, reads, finds more, and writes."""

    def texts(selector: str) -> list[str]:
        return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]

    def go(element: WebElement) -> None:
        follow(browser, element)

    def link(text: str) -> WebElement:
        return browser.find_element(By.LINK_TEXT, text)

    browser.get(site)
    go(link("Travel"))
    browser.find_element(By.NAME, "q").send_keys("a good night while camping")
    go(browser.find_element(By.TAG_NAME, "button"))
    assert texts(".results a")[0] == "Sleeping well in a tent"
    assert all(0 < float(score) < 1 for score in texts(".results .score"))

    go(link("Sleeping well in a tent"))
    assert len(texts("aside a")) == 3
    assert "Sleeping well in a tent" not in texts("aside a")

    browser.get(f"{site}/kitchen/?q=bread")
    first = texts(".results a")
    go(link("More →"))
    assert not set(texts(".results a")) & set(first)

    go(link("Write"))
    browser.find_element(By.NAME, "title").send_keys("Ravioli by hand")
    browser.find_element(By.NAME, "text").send_keys("Roll the pasta thin & fill it.")
    go(browser.find_element(By.TAG_NAME, "button"))
    assert texts("h1") == ["Ravioli by hand"]
    assert texts("article p") == ["Roll the pasta thin & fill it."]
