"""Search the docstrings of Python's standard library by meaning and by name.

    python examples/stdlib.py "how do I run a shell command"

The first run embeds every public function, class and method into a SQLite file with a model that
runs on this machine. Later runs find everything in place and answer at once.
"""

import argparse
import importlib.util
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Iterator

from rich.console import Console
from rich.progress import track
from rich.table import Table

from embeddings import Collection

QUESTIONS = (
    "the most common elements of a list",
    "the middle value of some numbers",
    "a random string that is safe in a web address",
)

# Importing these opens a browser, prints a poem, starts a window or belongs to Python's own tests.
SKIPPED = {"antigravity", "this", "idlelib", "turtle", "turtledemo", "tkinter", "test", "lib2to3"}


def main() -> None:
    """Embed what is new, then answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", nargs="*", help="what to look for")
    parser.add_argument("--file", default="stdlib.db", help="the SQLite file (%(default)s)")
    options = parser.parse_args()
    questions = [" ".join(options.question)] if options.question else QUESTIONS
    console = Console()

    # A path opens the file, creates the tables and the collection. In an application, pass the
    # session that you already have: Collection("stdlib", session, model_id="local").
    with Collection("stdlib", options.file, model_id="local") as stdlib:
        stdlib.create_text_index()  # for names such as "copytree", which are words, not meanings
        docstrings = dict(find_docstrings())
        progress = track(docstrings.items(), "Embedding what is new", console=console)
        entries = ((name, f"{name}: {text}", {"kind": kind}) for name, (kind, text) in progress)
        # What is in the file already is recognised by its content, and not embedded again.
        stdlib.embed_multi_with_metadata(entries, store=True, batch_size=500)
        console.print(f"{len(stdlib):,} docstrings in {options.file}\n")

        for question in questions:
            table = Table("score", "name", "first line", title=question, title_justify="left")
            # Questions are sentences here, so that their meaning weighs more than their words.
            for entry in stdlib.similar(question, number=10, words=True, weights=(5, 1)):
                name, _, text = (entry.content or "").partition(": ")
                table.add_row(f"{entry.score:.3f}", name, text.strip().splitlines()[0])
            console.print(table)


def find_docstrings() -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (name, (kind, docstring)) of everything public in the standard library."""
    warnings.simplefilter("ignore")  # what is deprecated says so as soon as one looks at it
    seen: set[int] = set()
    for module_name in sorted(find_modules()):
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # of another operating system, or left out of this build
            continue
        for name, value in public(module):
            home = getattr(value, "__module__", None) or module_name
            if not (f"{home}.".startswith(f"{module_name}.") or home.startswith("_")):
                continue  # imported here from a public module of its own
            if id(value) in seen:
                continue  # known by the name that its package gives it
            seen.add(id(value))
            if inspect.isroutine(value) or inspect.isclass(value):
                yield from described(f"{module_name}.{name}", value)
            if inspect.isclass(value):
                for inner, method in public(value):
                    if inspect.isroutine(method):
                        yield from described(f"{module_name}.{name}.{inner}", method)


def find_modules() -> Iterator[str]:
    """Yield the names of the public modules, and of those one level inside the packages."""
    for name in sys.stdlib_module_names - SKIPPED:
        if not name.startswith("_") and (spec := importlib.util.find_spec(name)):
            yield name
            for inner in pkgutil.iter_modules(spec.submodule_search_locations or []):
                if not inner.name.startswith(("_", "test")):
                    yield f"{name}.{inner.name}"


def public(owner: object) -> Iterator[tuple[str, object]]:
    """Yield the members that a module or a class defines itself, without the underscored."""
    for name in list(vars(owner)):
        if not name.startswith("_"):
            yield name, getattr(owner, name, None)


def described(name: str, value: object) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the name with its docstring, if it has one of its own."""
    text = inspect.getdoc(value)
    if text and text.strip():
        yield name, ("class" if inspect.isclass(value) else "function", text)


if __name__ == "__main__":
    main()
