"""How Sphinx builds the pages: `make docs`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import django
from django.conf import settings

import embeddings

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# What is read of Django's admin and of REST framework wants settings.
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"])
django.setup()

project = "sqlalchemy-embeddings"
release = embeddings.__version__
html_title = project
html_theme = "furo"
html_copy_source = False
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3

# In a docstring `x` is code, and an indented block after a colon is a block of code.
default_role = "code"
smartquotes = False
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True


def setup(app: Sphinx) -> None:
    """Let Sphinx read the docstrings as people do."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=1)


def as_restructured_text(_app: Sphinx, what: str, *given: object) -> None:
    """Write what our docstrings leave to the reader as Napoleon and reStructuredText want it.

    Indented blocks are code. A paragraph that ends a section `Raises` is not an error's name. The
    first line of an attribute is no type where a colon is in it.
    """
    lines: list[str] = given[-1]  # type: ignore[assignment]
    written = ["..", ""] if what in {"attribute", "property"} else []
    section = None  # the indent of `Raises:`, while its lines last
    is_after = False  # after its list of errors
    for line, following, block in zip(lines, [*lines[1:], ""], [*lines[2:], "", ""], strict=False):
        indent = _indent(line)
        if line.strip() and section is not None and indent <= section:
            section, is_after = None, False
        if line.strip() == "Raises:":
            section = indent
        is_after = is_after or (section is not None and not line.strip())
        text = line[4:] if is_after else line
        written.append(re.sub(r'(?<=")(\w+)_(?=")', r"\1\_", text))
        if line.strip() and not following.strip() and _indent(block) > indent:
            written += ["", " " * indent + "::"]
    lines[:] = written


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
