"""What `help()` says of the searches."""

from __future__ import annotations

import inspect
import pydoc
import re
from typing import Any

import pytest

from embeddings import AsyncCollection, Collection, Filters

SEARCHES = [
    name
    for name, method in vars(Collection).items()
    if inspect.isfunction(method)
    and "filters" in inspect.signature(method).parameters
    and not name.startswith("_")
]


@pytest.mark.parametrize("cls", [Collection, AsyncCollection])
def test_similar_explains_every_argument(cls: Any, subtests: pytest.Subtests):
    """There, and not in another place that one has to know of."""
    for word in ["value", "number", "prefix", *Filters.__annotations__]:
        with subtests.test(ascii(word)[:60]):
            text = pydoc.plain(pydoc.render_doc(cls.similar))
            assert re.search(rf"^ +{word}: \w", text, re.MULTILINE)


@pytest.mark.parametrize("name", sorted({*SEARCHES} - {"similar", "matches"}))
def test_the_other_searches_say_where(name: str):
    """One word leads from each to `similar`, or to `matches`, which is told by `similar`."""
    doc = inspect.getdoc(getattr(Collection, name)) or ""
    assert re.search(r"`(similar\w*|matches)`", doc)
