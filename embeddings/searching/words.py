"""The words of a text: what a text index holds, and what of a question is looked for in it."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from ..errors import IndexingError, InvalidQueryError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_TERMS = 100  # of a question, that are looked for
MOST_WORD_BYTES = (
    1_024  # of UTF-8: longer words are not looked for, and not every database holds them
)
GRAM = 2  # letters, of what is looked for where no blanks stand between words

_ENGLISH = """
a an and are as at be but by for if in into is it no not of on or such that the their then there
these they this to was will with
"""
_GERMAN = """
aber als am an auch auf aus bei bin bis das dass dem den der des die dies diese doch du durch ein
eine einem einen einer es fur haben hat ich ihr im in ist kann man mein mit nach nicht noch nur oder
ohne sein sich sie sind so uber um und uns unter vom von vor wann war warum was wenn wer werden wie
wir wird wo zu zum zur
"""
_FRENCH = """
a ai au aux avec ce ces cette comment dans de des donc du elle en est et eu il ils je la le les leur
lui ma mais me mes mon ne nous on ou par pas pour pourquoi qu quand que quel qui sa sans se ses son
sont sur ta te tu un une vous y
"""
_SPANISH = """
a al como con cual cuando de del donde e el ella en entre es esta este esto la las le lo los mas me
mi no nos o para pero por porque que quien se sin sobre son su sus te tu un una y ya yo
"""
STOP_WORDS: dict[str, frozenset[str]] = {
    "simple": frozenset(),
    "cjk": frozenset(),
    "english": frozenset(_ENGLISH.split()),
    "german": frozenset(_GERMAN.split()),
    "french": frozenset(_FRENCH.split()),
    "spanish": frozenset(_SPANISH.split()),
}
"""What is not looked for, by the language: too many texts have it. Without accents."""

_ENDINGS = ("ings", "ing", "edly", "ed", "ies", "es", "s", "ly", "e", "y")
SHORTEST = 4  # letters of the beginning of a word

_WORD = re.compile(r"[^\W_]+")
_LETTERS = bytes(ord(chr(c).lower()) if c < 128 and chr(c).isalnum() else 32 for c in range(256))
"""What each byte of an ASCII text stands for: a letter in lower case, a digit, or a blank."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Letters of scripts without blanks: Thai, Lao, Burmese, Korean, Khmer, Japanese, Chinese."""
_RUN = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
_ACCENTS = re.compile("(?<=[A-Za-z])[\u0300-\u036f]+")
"""After the letter, in decomposed text."""


def checked_language(language: object) -> str:
    """Return a language of a text index.

    Raises:
        InvalidQueryError: It is none.
    """
    if not isinstance(language, str) or language not in STOP_WORDS:
        raise InvalidQueryError(
            f"language must be one of {', '.join(map(repr, STOP_WORDS))}, not {language!r}"
        )
    return language


def tokens(text: str, language: str) -> list[str]:
    """Return the words of a text in their order: letters and digits, in lower case.

    The letters A to Z have no accents; those of other alphabets keep theirs, as FTS5 has it. For
    "cjk" each two letters that stand together are a word, and the last of a run, where no blanks
    stand between words; so every letter begins a word. Others are as they are, with their accents.
    """
    if language != "cjk":
        return _words(text)
    found: list[str] = []
    for run, is_unspaced in _runs(text):
        found += [run[at : at + GRAM] for at in range(len(run))] if is_unspaced else [run]
    return found


def _words(text: str) -> list[str]:
    if text.isascii():  # in half the time
        return text.encode().translate(_LETTERS).decode().split()
    text = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    text = unicodedata.normalize("NFC", text)
    return _WORD.findall(text.lower())


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a text, cut where scripts change, and whether these have no blanks."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # letters of half and of full width are the same
    for word in _WORD.findall(text.lower()):
        for run in _RUN.finditer(word):
            yield run[0], run[1] is not None


class Term(NamedTuple):
    """What is looked for: letters and digits, in lower case."""

    text: str
    is_beginning: bool = False
    """Whether any word that begins so is meant."""


def terms(text: str, language: str) -> list[Term]:
    """Return what of a question is looked for, each once: of its words, those that say something.

    If there are none of these, all are looked for. An English word is looked for in its other
    forms, too.
    """
    if language == "cjk":
        return [*dict.fromkeys(filter(_can_be_held, _grams(text)))][:MOST_TERMS]
    words = dict.fromkeys(tokens(text, language))
    telling = [word for word in words if word not in STOP_WORDS[language]] or [*words]
    if language == "english":
        as_terms = [term for word in telling for term in _in_english(word)]
    else:
        as_terms = [*map(Term, telling)]
    return [*dict.fromkeys(filter(_can_be_held, as_terms))][:MOST_TERMS]


def _can_be_held(term: Term) -> bool:
    return len(term.text) * 4 <= MOST_WORD_BYTES or len(term.text.encode()) <= MOST_WORD_BYTES


def _grams(text: str) -> Iterator[Term]:
    """Yield what of a question is looked for in words as "cjk" has them."""
    for run, is_unspaced in _runs(text):
        if not is_unspaced:
            yield Term(run)
        elif len(run) < GRAM:
            yield Term(run, is_beginning=True)
        else:
            yield from (Term(run[at : at + GRAM]) for at in range(len(run) - 1))


def _in_english(word: str) -> list[Term]:
    """Return what the forms of an English word begin with, or a short word, without its plural."""
    if not word.isalpha():
        return [Term(word)]
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST:
            return [Term(word[: -len(ending)], is_beginning=True)]
    if len(word) == SHORTEST and word.endswith("s") and not word.endswith(("is", "ss", "us")):
        return [Term(word), Term(word[:-1])]  # days, day
    return [Term(word, is_beginning=len(word) >= SHORTEST)]


def no_index(name: str) -> IndexingError:
    """Return the error that says that the collection of this name has no text index."""
    return IndexingError(
        f"The collection {name!r} has no text index, which words= searches: call "
        "create_text_index() once, or pass words= a SELECT of keys that your own full-text search "
        "has ranked"
    )
