"""What a service says of a request that it does not answer, as an error that can be acted on.

What a service says may repeat the request. Of its words those are shown that are in no content,
or are words that services use.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ..errors import (
    AnswerError,
    AuthenticationError,
    ModelError,
    QuotaError,
    RateLimitError,
    RefusedError,
    TooLongError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MOST_SHOWN = 200  # characters of what a service said
LONGEST_WORD = 20  # characters; a longer one that has digits may be a key
# The error codes that a message of ours shows. A service could echo the request in any other.
SHOWN_CODES = {
    "context_length_exceeded",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
    "rate_limit_exceeded",
    "unsupported_country_region_territory",
}
NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
# As OpenAI, Azure, vLLM, llama.cpp, Ollama, LiteLLM and Gemini word it.
TOO_LONG = re.compile(
    r"context[ _](length|size|window)|too (long|large|many (input )?tokens)|"
    r"max\w* (allowed )?(input |sequence )?(length|tokens)|max\w* \d+ tokens|"
    r"less than \d+ tokens|longer than|physical batch size|"
    r"exceeds? .{0,40}(tokens|length|batch size|limit)",
    re.IGNORECASE,
)
ENCODING = re.compile(r"encoding[_ ]?format|base64", re.IGNORECASE)
SHOWS_REASON = {400, 404, 413, 422}
MAY_BE_FOR_AN_ITEM = {400, 413, 422}
NO_SUCH_PLACE = {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "UnicodeEncodeError"}
# The words that services use. One of them tells nothing of a content that has it too.
USUAL_WORDS = (
    "a all allowed already also an and any api are argument arguments array as at available azure "
    "bad base64 batch be been body bound but by bytes can cannot characters check code combined "
    "context contains content could count current deployment did dimension dimensions do does due "
    "embed embedding embeddings empty encoding encoding_format endpoint error exceed exceeded "
    "exceeds expected extra failed field fields filter float for format found from greater got "
    "has have header however if in increase index input input_type inputs instead integer invalid "
    "is it item items its json key large larger least length less limit limits list long longer "
    "lower match max maximum message method min minimum missing model more most must name no none "
    "not null number object of on one only operation or other outside parameter parameters parse "
    "passed physical please policy process prompt provide provided range received reduce refused "
    "request requested requests required resource resulted retry sequence server shorter should "
    "size smaller specified string submit support supported supports text than that the this to "
    "token tokens too total try type unexpected unknown unprocessable unsupported use user using "
    "valid validation value version was were when which with you your"
)
WORDS = frozenset(USUAL_WORDS.split(" "))


@dataclass(frozen=True)
class Failure:
    """Why a request brought no vectors.

    Attributes:
        error: What to raise of it.
        may_be_for_an_item: Whether a part of the request may be answered.
        is_about_encoding: Whether the service does not know base64.
    """

    error: ModelError
    may_be_for_an_item: bool = False
    is_about_encoding: bool = False


@dataclass(frozen=True)
class Teller:
    """Tells of failures in words that hold neither keys nor contents.

    Attributes:
        model_id: Of the model that failed.
        secrets: Keys, and the values of headers and parameters.
        has_own_client: Whether the client was passed, so that key and address are set there.
    """

    model_id: str
    secrets: tuple[str, ...] = ()
    has_own_client: bool = False

    def of_exception(self, error: Exception, texts: Sequence[str]) -> Failure:
        """Return what the openai package's exception says."""
        if isinstance(error, ModelError):
            return Failure(error)
        status = getattr(error, "status_code", None)
        name = type(error).__name__
        if isinstance(status, int):
            headers = getattr(getattr(error, "response", None), "headers", {})
            return self._of_body(name, status, getattr(error, "body", None), headers, texts)
        if name == "OpenAIError":  # there is no key
            return Failure(AuthenticationError(self._message([name], "", _SET_A_KEY)))
        if name in {"APIConnectionError", "APITimeoutError"}:
            cause = type(error.__cause__).__name__
            kind = ModelError if cause in NO_SUCH_PLACE else UnavailableError
            details = [name, cause] if error.__cause__ is not None else [name]
            return Failure(kind(self._message(details, "", _ADDRESSES.get(cause, ""))))
        # While an answer is read, httpx's own errors come through.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "DecodingError" in kinds:
            return Failure(AnswerError(self._message([name])))
        is_transport = "TransportError" in kinds and name not in NO_SUCH_PLACE
        return Failure((UnavailableError if is_transport else ModelError)(self._message([name])))

    def of_answer(self, answer: Any, texts: Sequence[str]) -> Failure | None:
        """Return what an answer says that is called a success and holds an error, or None."""
        found = _error_in(answer)
        if found is None:
            return None
        code = found.get("code") if isinstance(found, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else None
        if status is None:
            message = self._message(["an error called a success"], self._reason(found, texts))
            return Failure(AnswerError(message, reason=self._reason(found, texts) or None))
        return self._of_body("an error called a success", status, found, {}, texts)

    def unreadable(self, error: Exception) -> Failure:
        """Return that the answer is no JSON, or too large."""
        return Failure(AnswerError(self._message([type(error).__name__])))

    def _of_body(
        self,
        name: str,
        status: int,
        body: Any,
        headers: Mapping[str, str],
        texts: Sequence[str],
    ) -> Failure:
        found = _error_in(body)
        found = body if found is None else found
        code, param = (
            (found.get("code"), found.get("param")) if isinstance(found, dict) else (None, None)
        )
        if not isinstance(code, str | int):
            code = None
        said = _said(found)
        details = [name, f"HTTP {status}"]
        if isinstance(code, str) and code in SHOWN_CODES:
            details.append(code)
        kind = _kind(status, code, said)
        shows_reason = status in SHOWS_REASON or kind is TooLongError
        reason = self._reason(found, texts) if shows_reason else ""
        advice = ""
        if status == 401:
            advice = _SET_A_KEY
        elif 300 <= status < 400:
            advice = ". Set base_url= to the address to which the service redirects"
        wait = retry_after(headers)
        if wait is not None and issubclass(kind, RateLimitError | UnavailableError):
            details.append(f"to be asked again in {wait:{'.0f' if wait < 1e9 else '.0e'}} s")
        error = kind(
            self._message(details, reason, advice),
            status=status,
            reason=reason or None,
            retry_after=wait,
        )
        is_about_input = not isinstance(param, str) or param.startswith("input")
        return Failure(
            error,
            may_be_for_an_item=issubclass(kind, TooLongError)
            or (issubclass(kind, RefusedError) and status in MAY_BE_FOR_AN_ITEM and is_about_input),
            is_about_encoding=status < 600
            and issubclass(kind, RefusedError | UnavailableError)
            and (param == "encoding_format" or ENCODING.search(said) is not None),
        )

    def _message(self, details: Iterable[str], reason: str = "", advice: str = "") -> str:
        """Return what is said of a failure; the advice is about the key or the address."""
        advice = _ASK_THE_CLIENT if advice and self.has_own_client else advice
        told = f"Model {self.model_id!r}: the service failed ({', '.join(details)})"
        return told + (f": {reason}" if reason else "") + advice

    def _reason(self, found: Any, texts: Sequence[str]) -> str:
        return without(_said(found), texts, self.secrets)[:MOST_SHOWN]


_ASK_THE_CLIENT = ". Key and address are those of the client that was passed as client="
_SET_A_KEY = ". Set OPENAI_API_KEY or pass api_key="
_ADDRESSES = dict.fromkeys(
    ("UnsupportedProtocol", "InvalidURL"),
    ". Set base_url= to an address that begins with http:// or https://",
)


def _kind(status: int, code: Any, said: str) -> type[ModelError]:
    if status == 402 or code in NO_QUOTA or (status == 429 and "insufficient_quota" in said):
        return QuotaError
    if status in {401, 403}:
        return AuthenticationError
    if status == 429:
        # OpenAI says so of one request that has more tokens than a minute may have.
        return TooLongError if "request too large" in said.lower() else RateLimitError
    # llama.cpp says with status 500 that an input is too large.
    is_too_long = status == 413 or code == "context_length_exceeded" or TOO_LONG.search(said)
    if is_too_long and status in MAY_BE_FOR_AN_ITEM | {500}:
        return TooLongError
    if status in {408, 409, 425} or status >= 500:
        return UnavailableError
    return RefusedError


def _error_in(body: Any) -> Any:
    """Return the error in a body, however a service wraps it, or None."""
    if isinstance(body, list) and len(body) == 1:  # Gemini's
        body = body[0]
    if isinstance(body, dict):
        for name in ("error", "detail"):
            if body.get(name):
                return body[name]
        if "message" in body and not body.get("data"):
            return body
    return None


def _said(found: Any) -> str:
    """Return the words of an error."""
    if isinstance(found, str):
        return "" if found.lstrip().startswith("<") else found
    if isinstance(found, dict):
        said = found.get("message") or found.get("msg") or found.get("detail")
        return _said(said) if said is not None else ""
    if isinstance(found, list):  # as FastAPI tells which fields are wrong
        return "; ".join(filter(None, map(_said, found[:3])))
    return ""


def without(said: str, texts: Iterable[str], secrets: Iterable[str]) -> str:
    """Return what was said, with an ellipsis for each word that a text or a secret may have."""
    said = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), said)
    said = unquote(re.sub(r"\\[a-z\"\\]", " ", said[: 20 * MOST_SHOWN]))
    said = re.sub(r"(?i)\b(bearer|basic)\s+\S+|\S*://\S+|\bsk-\S+|\S*\*\*\S*", "…", said)
    for secret in secrets:
        said = said.replace(secret, "…")
    hidden = "\n".join([*texts, *secrets]).casefold()
    # Digits are looked for as whole numbers: a limit of 8192 is no part of 18192.
    numbers = set(re.findall(r"\d+", hidden))

    def shown(match: re.Match[str]) -> str:
        word = match[0].casefold()
        if word in WORDS or (len(word) == 1 and word.isalpha()):
            return match[0]
        if word.isdigit():
            return "…" if word in numbers else match[0]
        is_hidden = word in hidden or (len(word) >= LONGEST_WORD and re.search(r"\d", word))
        return "…" if is_hidden else match[0]

    said = re.sub(r"[\w]+", shown, said)
    said = re.sub(r"…(\W{0,3}…)+", "…", said)
    return " ".join(said.split())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which a service wants to be asked again, or None.

    Source: RFC 9110, section 10.2.3: a number of seconds, or a date. OpenAI and Azure also send
    milliseconds.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, OverflowError, OSError):
                continue
        if not math.isnan(seconds):
            return seconds if seconds > 0 else None
    return None
