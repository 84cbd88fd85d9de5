"""What the API does, as its client sees it."""

import pytest
from httpx import AsyncClient

from embeddings import UnavailableError

pytestmark = pytest.mark.anyio

NOTES = [
    {"title": "Baking bread", "text": "flour, water and yeast"},
    {"title": "Bread with walnuts", "text": "flour, water, yeast and walnuts"},
    {"title": "Night trains", "text": "a bunk and a timetable"},
]


@pytest.fixture
async def notes(client: AsyncClient) -> dict[str, int]:
    """Three notes: their ids by title."""
    answers = [await client.post("/notes", json=note) for note in NOTES]
    return {answer.json()["title"]: answer.json()["id"] for answer in answers}


MODEL = "embeddings.testing.DeterministicModel.embed_batch"  # stands for a service


def unavailable(*_: object) -> list[list[float]]:
    """Embed nothing, as a service that is down."""
    raise UnavailableError("The service is down")


def of_two_dimensions(_: object, items: list[str]) -> list[list[float]]:
    """Embed as another model than that of the collection does."""
    return [[1.0, 2.0] for _ in items]


async def found(client: AsyncClient, path: str, **query: object) -> list[str]:
    """Return the titles that a search gives."""
    answer = await client.get(path, params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200
    return [note["title"] for note in answer.json()]


@pytest.mark.usefixtures("notes")
async def test_the_nearest_in_meaning_come_first(client: AsyncClient) -> None:
    """With their scores."""
    assert (await found(client, "/notes/search", q="bread of flour"))[0] == "Baking bread"
    answer = await client.get("/notes/search", params={"q": "bread of flour"})
    scores = [note["score"] for note in answer.json()]
    assert scores == sorted(scores, reverse=True)


async def test_results_come_in_pages(client: AsyncClient) -> None:
    """Every note is on exactly one of them."""
    many = [{"title": f"Train {n}", "text": "a train"} for n in range(7)]
    assert (await client.post("/notes/import", json=many)).json() == 7
    pages = [await found(client, "/notes/search", q="train", page=page) for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [5, 2, 0]
    assert {title for page in pages for title in page} == {note["title"] for note in many}


async def test_more_like_this(client: AsyncClient, notes: dict[str, int]) -> None:
    """Nearest first, without itself."""
    path = f"/notes/{notes['Bread with walnuts']}/similar"
    assert await found(client, path) == ["Baking bread", "Night trains"]
    assert (await client.get("/notes/0/similar")).status_code == 404


async def test_a_note_that_is_changed_is_found_by_its_new_words(
    client: AsyncClient, notes: dict[str, int]
) -> None:
    """A title that is taken is refused."""
    path = f"/notes/{notes['Night trains']}"
    new = {"title": "Ferries", "text": "waves and a deck chair"}
    assert (await client.put(path, json=new)).status_code == 200
    assert (await found(client, "/notes/search", q="deck chair"))[0] == "Ferries"
    assert (await client.put(path, json=NOTES[0])).status_code == 409
    assert (await client.put("/notes/0", json=new)).status_code == 404


@pytest.mark.usefixtures("notes")
async def test_an_import_that_fails_half_way_leaves_nothing(client: AsyncClient) -> None:
    """Neither the note before the one that is refused, nor its vector."""
    new = {"title": "Rye bread", "text": "flour of rye"}
    answer = await client.post("/notes/import", json=[new, NOTES[0]])
    assert answer.status_code == 409
    assert set(await found(client, "/notes/search", q="rye")) == {n["title"] for n in NOTES}


async def test_a_deleted_note_is_not_found(client: AsyncClient, notes: dict[str, int]) -> None:
    """Its vector is gone with it."""
    path = f"/notes/{notes['Baking bread']}"
    assert (await client.delete(path)).status_code == 204
    assert "Baking bread" not in await found(client, "/notes/search", q="baking bread")
    assert (await client.delete(path)).status_code == 404


@pytest.mark.usefixtures("notes")
async def test_a_title_is_given_once(client: AsyncClient) -> None:
    """The second note of a title is refused."""
    assert (await client.post("/notes", json=NOTES[0])).status_code == 409


@pytest.mark.parametrize("note", [{}, {"title": "", "text": "a"}, {"title": "a", "text": "a\0b"}])
async def test_what_cannot_be_saved_is_refused(client: AsyncClient, note: object) -> None:
    """Before anything is written."""
    assert (await client.post("/notes", json=note)).status_code == 422
    assert await found(client, "/notes/search", q="a") == []


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize("question", ["", "\0", "a\0b"])
async def test_what_cannot_be_searched_for_is_refused(client: AsyncClient, question: str) -> None:
    """The client is told why."""
    answer = await client.get("/notes/search", params={"q": question})
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize("fails", [unavailable, of_two_dimensions])
async def test_a_service_that_fails(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, fails: object
) -> None:
    """A search asks to come back later. A note is saved all the same, and embedded later."""
    with monkeypatch.context() as patch:
        patch.setattr(MODEL, fails)
        answer = await client.get("/notes/search", params={"q": "ferry"})
        assert answer.status_code == 503
        new = {"title": "Ferries", "text": "waves and a deck chair"}
        written = await client.post("/notes", json=new)
        assert written.status_code == 201
        assert (await client.post("/notes", json=new)).status_code == 409
    assert "Ferries" not in await found(client, "/notes/search", q="deck chair")
    path = f"/notes/{written.json()['id']}"
    assert (await client.put(path, json=new)).status_code == 200
    assert (await found(client, "/notes/search", q="deck chair"))[0] == "Ferries"
