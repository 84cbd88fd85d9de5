"""The documentation: its pages are built without a warning, and every link leads somewhere.

That its code works is in the hands of the root's `conftest.py`.
"""

from __future__ import annotations

import os
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import embeddings
from embeddings.databases.postgresql.build import MAX_DIMENSIONS
from embeddings.databases.postgresql.index import MAX_HALFVEC
from embeddings.keys import MAX_ID_BYTES
from tests import forked

pytestmark = pytest.mark.once

REPOSITORY = Path(__file__).parents[2]
TEXTS = [
    *(REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "examples").glob("*/README.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
SUBJECTS = (
    "start", "writing", "searching", "transactions", "postgresql", "flask", "fastapi", "django",
    "models", "schema", "testing", "production", "speed",
)  # fmt: skip
BESIDE = (  # public, and not of the package itself
    "databases.register",
    "integrations.django.ModelCollection",
    "integrations.django.admin.EmbeddingsAdmin",
    "integrations.django.operations.FollowRows",
    "integrations.django.records",
    "integrations.django.rest.EmbeddingsFilter",
    "integrations.django.session",
    "integrations.flask.Embeddings",
    "models.openai.OpenAIEmbeddingModel",
    "testing.DeterministicModel",
    "testing.deterministic_models",
    "testing.replace_models",
)


class Page(HTMLParser):
    """What a page links to, and what in it can be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif (name == "href" and tag == "a") or (name == "src" and tag == "img"):
                self.links.add(value or "")


# A theme makes no links, but a tree of all pages for each of them. Nearly nothing is garbage. What
# the search within the pages finds is not looked at here, and stems take long.
BUILD = """
import gc, sys
from sphinx.cmd.build import main
from sphinx.search.en import SearchEnglish
gc.set_threshold(100_000)
SearchEnglish.stem = lambda self, word: word
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages, built anew as `make docs` does, in a theme that is quicker."""
    folder = tmp_path_factory.mktemp("site").resolve()
    options = ["--fail-on-warning", "--keep-going", "-b", "html", "-D", "html_theme=basic"]
    done = forked.python(
        *("-c", BUILD, *options, "docs", str(folder)),
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        modules=forked.DJANGO,
    )
    assert done.returncode == 0, done.stderr
    return {file: Page(file) for file in folder.rglob("*.html")}


def test_there_is_a_page_on_each_subject(site: dict[Path, Page]):
    """And the reference, and how the house is built."""
    names = {file.stem for file in site}
    assert names >= {*SUBJECTS, "asyncio", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"}


def test_every_link_within_the_site_leads_somewhere(site: dict[Path, Page]):
    """To a file, and to a place in it where it names one."""
    links = 0
    for file, page in site.items():
        for link in page.links:
            scheme, host, path, _, anchor = urlsplit(link)
            if scheme or host:
                continue
            target = (file.parent / unquote(path)).resolve() if path else file
            assert target.is_file(), (file.name, link)
            if anchor and target in site:
                assert unquote(anchor) in site[target].anchors, (file.name, link)
            links += 1
    assert links > 500


def test_every_public_name_is_in_the_reference(site: dict[Path, Page]):
    """With the methods of the collection."""
    reference = next(page for file, page in site.items() if file.match("reference/index.html"))
    of_collections = [
        f"{kind}.{name}"
        for kind in ("Collection", "AsyncCollection")
        for name in vars(getattr(embeddings, kind))
        if not name.startswith("_") and name != "DoesNotExist"
    ]
    names = {f"embeddings.{name}" for name in [*embeddings.__all__, *of_collections, *BESIDE]}
    assert names <= reference.anchors


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_link_of_the_other_texts_leads_somewhere(file: Path):
    """They are read where the repository is, too: with the anchors that a heading has there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        assert target.is_file(), link
        if anchor and target.suffix == ".md" and target.parent.name not in {"project", "reference"}:
            headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def prose(file: Path) -> str:
    """Return a text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_versions_and_limits_are_those_of_the_source():
    """The page tells what `pyproject.toml` asks for."""
    page = (REPOSITORY / "docs" / "limits.md").read_text()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {
        found[1].lower(): found[2]
        for each in (*project["dependencies"], *project["optional-dependencies"]["dev"])
        if (found := re.fullmatch(r"([\w-]+)>=([\d.]+)", each))
    }
    assert project["requires-python"] == ">=3.11"
    for name in ("SQLAlchemy", "Alembic", "NumPy", "Django", "Flask-SQLAlchemy"):
        assert f"| {name} | {wanted[name.lower()]} and newer" in page
    for number in (MAX_ID_BYTES, MAX_DIMENSIONS, MAX_HALFVEC):
        assert f"{number:,} " in page
    assert embeddings.__version__.startswith("0.")


def test_the_readme_is_short():
    """What is more than that has a page."""
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 160
