"""What the application does, as a browser sees it."""

import re

import pytest
from flask.testing import FlaskClient

from embeddings import UnavailableError

ARTICLES = [
    {"title": "Baking bread", "text": "flour, water and yeast"},
    {"title": "Bread with walnuts", "text": "flour, water, yeast and walnuts"},
    {"title": "Night trains", "text": "a bunk and a timetable"},
]


def titles(client: FlaskClient, path: str) -> list[str]:
    """Return the titles of the articles to which a page links."""
    page = client.get(path)
    assert page.status_code == 200
    return re.findall(r'<a href="/\w+/\d+">(.+?)</a>', page.text)


@pytest.fixture
def articles(client: FlaskClient) -> None:
    """Three articles of one tenant, and one of another."""
    assert client.post("/ours/import", json=ARTICLES).status_code == 201
    theirs = [{"title": "Their bread", "text": "flour, water and yeast"}]
    assert client.post("/theirs/import", json=theirs).status_code == 201


def write(client: FlaskClient, title: str, text: str, **fields: str) -> int:
    """Send the form, and return the status of the answer."""
    return client.post("/ours/write", data={"title": title, "text": text, **fields}).status_code


@pytest.mark.usefixtures("articles")
def test_the_nearest_in_meaning_come_first(client: FlaskClient) -> None:
    """Only the tenant's own are found."""
    assert titles(client, "/ours/?q=bread of flour") == [
        "Baking bread",
        "Bread with walnuts",
        "Night trains",
    ]


@pytest.mark.usefixtures("articles")
def test_an_article_is_found_as_soon_as_it_is_written(client: FlaskClient) -> None:
    """The form leads to the article."""
    assert write(client, "Timetable of the trains", "every hour", published="on") == 302
    assert titles(client, "/ours/?q=timetable of the trains")[0] == "Timetable of the trains"


@pytest.mark.usefixtures("articles")
def test_an_article_that_is_changed_is_found_by_its_new_words(client: FlaskClient) -> None:
    """By the tenant's own; a title that is taken is refused, and nothing is changed."""
    found = re.search(r'<a href="(/ours/\d+)">Night trains', client.get("/ours/").text)
    assert found is not None
    path = f"{found[1]}/edit"
    assert "a bunk and a timetable" in client.get(path).text
    new = {"title": "Ferries", "text": "waves and a deck chair", "published": "on"}
    assert client.post(path, data=new).status_code == 302
    assert titles(client, "/ours/?q=deck chair")[0] == "Ferries"
    assert client.post(path, data={**new, "title": "Baking bread"}).status_code == 409
    assert titles(client, "/ours/?q=deck chair")[0] == "Ferries"
    assert client.post(path.replace("ours", "theirs"), data=new).status_code == 404


@pytest.mark.usefixtures("articles")
def test_a_draft_is_not_found(client: FlaskClient) -> None:
    """Nor among the newest, nor as more of the same."""
    assert write(client, "Baking secret bread", "flour, water and yeast") == 302
    everywhere = ["/ours/", "/ours/?q=secret bread", "/theirs/?q=secret bread"]
    assert not any("secret" in title for path in everywhere for title in titles(client, path))


def test_results_come_in_pages(client: FlaskClient) -> None:
    """Every article is on exactly one of them."""
    many = [{"title": f"Train {n}", "text": "a train"} for n in range(12)]
    assert client.post("/ours/import", json=many).status_code == 201
    pages = [titles(client, f"/ours/?q=train&page={page}") for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [5, 5, 2]
    assert {title for page in pages for title in page} == {item["title"] for item in many}
    assert 'rel="next"' in client.get("/ours/?q=train&page=2").text
    assert 'rel="next"' not in client.get("/ours/?q=train&page=3").text


@pytest.mark.usefixtures("articles")
@pytest.mark.parametrize(("page", "count"), [("0", 3), ("-1", 3), ("x", 3), (10**30, 0)])
def test_a_page_that_is_not_there(client: FlaskClient, page: object, count: int) -> None:
    """It is the first one, or empty."""
    assert len(titles(client, f"/ours/?q=bread&page={page}")) == count


@pytest.mark.usefixtures("articles")
def test_an_article_shows_more_like_this(client: FlaskClient) -> None:
    """Nearest first, without itself and without what others wrote."""
    page = client.get("/ours/?q=walnuts").text
    found = re.search(r'href="(/ours/\d+)">Bread with walnuts', page)
    assert found is not None
    assert titles(client, found[1]) == ["Baking bread", "Night trains"]
    assert client.get(found[1].replace("ours", "theirs")).status_code == 404


@pytest.mark.usefixtures("articles")
def test_an_import_that_fails_half_way_leaves_nothing(client: FlaskClient) -> None:
    """Neither the article before the one that is refused, nor its vector."""
    new = {"title": "Rye bread", "text": "flour of rye"}
    answer = client.post("/ours/import", json=[new, ARTICLES[0]])
    assert answer.status_code == 409
    assert "Rye bread" not in titles(client, "/ours/?q=rye bread")
    # Its vector is gone as well, or it would be among those that are near.
    assert len(titles(client, "/ours/?q=rye bread")) == len(ARTICLES)


@pytest.mark.usefixtures("articles")
@pytest.mark.parametrize(
    ("title", "text", "status"),
    [("", "a text", 400), ("a title", " ", 400), ("Baking bread", "again", 409)],
)
def test_what_is_refused_stays_in_the_form(
    client: FlaskClient, title: str, text: str, status: int
) -> None:
    """With the reason."""
    answer = client.post("/ours/write", data={"title": title, "text": text})
    assert answer.status_code == status
    assert 'role="alert"' in answer.text
    assert f'value="{title}"' in answer.text


@pytest.mark.parametrize("body", [{}, [{}], [{"title": "a"}], [{"title": "a", "text": 1}], ["a"]])
def test_an_import_of_something_else_is_refused(client: FlaskClient, body: object) -> None:
    """Before anything is written."""
    assert client.post("/ours/import", json=body).status_code == 400
    assert titles(client, "/ours/") == []


MODEL = "embeddings.testing.DeterministicModel.embed_batch"  # stands for a service


def unavailable(*_: object) -> list[list[float]]:
    """Embed nothing, as a service that is down."""
    raise UnavailableError("The service is down")


def of_two_dimensions(_: object, items: list[str]) -> list[list[float]]:
    """Embed as another model than that of the collection does."""
    return [[1.0, 2.0] for _ in items]


@pytest.mark.usefixtures("articles")
@pytest.mark.parametrize("question", ["%00", "a%00b"])
def test_what_cannot_be_searched_for_is_refused(client: FlaskClient, question: str) -> None:
    """The visitor is told why."""
    page = client.get(f"/ours/?q={question}")
    assert page.status_code == 400
    assert 'role="alert"' in page.text


@pytest.mark.usefixtures("articles")
@pytest.mark.parametrize("fails", [unavailable, of_two_dimensions])
def test_a_service_that_fails(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, fails: object
) -> None:
    """A search asks to come back later. An article is saved all the same, and found later."""
    with monkeypatch.context() as patch:
        patch.setattr(MODEL, fails)
        page = client.get("/ours/?q=ferry")
        assert page.status_code == 503
        assert 'role="alert"' in page.text
        assert write(client, "Ferries", "waves and a deck chair", published="on") == 302
    assert titles(client, "/ours/")[0] == "Ferries"
    assert "Ferries" not in titles(client, "/ours/?q=deck chair")
