"""How Sphinx builds the pages: `make docs`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import embeddings

if TYPE_CHECKING:
    from sphinx.application import Sphinx

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
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True


def setup(app: Sphinx) -> None:
    """Let Sphinx read the docstrings as people do."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=1)


def as_restructured_text(*given: object) -> None:
    """Write `::` for the colon before an indented block, and a backslash before a final `_`."""
    lines: list[str] = given[-1]  # type: ignore[assignment]
    for number, line in enumerate(lines):
        lines[number] = re.sub(r'(?<=")(\w+)_(?=")', r"\1\_", line)
    for number in range(len(lines) - 2):
        line, blank, block = lines[number : number + 3]
        indent = len(line) - len(line.lstrip())
        is_indented = len(block) - len(block.lstrip()) > indent
        if line.endswith(":") and not line.endswith("::") and not blank.strip() and is_indented:
            lines[number] = f"{line}:"
