"""Many batches through a service: several requests at a time, in order, and nothing lost."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import textwrap
import threading
import tracemalloc
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from embeddings import AsyncCollection, Collection, DoesNotExist, cached
from embeddings.errors import InvalidItemError, QuotaError, RefusedError, UnavailableError
from embeddings.models.local import WordLlamaModel
from embeddings.testing import DeterministicModel
from embeddings.writing.calls import in_order
from embeddings.writing.report import Report
from tests.forked import MODELS, started
from tests.provider import error, hang_up, right, vector_of
from tests.reaching import on_a_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embeddings.models.openai import OpenAIEmbeddingModel
    from tests.conftest import Open
    from tests.provider import Handler, Request, Server

ENGINES = pytest.mark.parametrize(
    "db", ["engine", "postgresql_engine", "async_asyncpg_engine"], indirect=True
)
"""Where each batch is a transaction of its own: both databases, synchronous and not."""


def numbered(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"{n:04}", f"text {n:04}") for n in range(start, start + count)]


def texts_of(request: Request) -> list[str]:
    return list(request.body["input"])


class Gate:
    """An answer that is given once so many requests are there at the same time."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)
        self._lock = threading.Lock()
        self.inside = self.most = 0

    def __call__(self, handler: Handler, request: Request) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self._barrier.wait(30)
        with self._lock:
            self.inside -= 1
        right(handler, request)


def refuses(*words: str) -> Callable[[Handler, Request], None]:
    """Return an answer that refuses each request with one of the words in it."""

    def answer(handler: Handler, request: Request) -> None:
        if any(word in text for word in words for text in texts_of(request)):
            body = {"error": {"message": "input is not allowed by the policy", "code": None}}
            handler.send(json.dumps(body).encode(), 400)
        else:
            right(handler, request)

    return answer


@ENGINES
def test_as_many_requests_at_a_time_as_asked_for(
    opened: Open, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """The model says how many, or the call."""
    service.usual = gate = Gate(3)
    docs = opened(model=open_model(batch_size=2, concurrency=3))
    report = docs.embed_multi(iter(numbered(12)), store=True)
    assert gate.most == 3
    assert (report.embedded, report.requests, report.tokens) == (12, 6, 6)
    assert [(record.id, record.content) for record in docs] == numbered(12)
    for record in docs:
        assert record.embedding.tolist() == vector_of(str(record.content))

    service.usual = gate = Gate(2)
    plan = docs.plan(numbered(8, 100))
    report = plan.embed(batch_size=2, concurrency=2)
    assert (gate.most, report.embedded, report.requests) == (2, 8, 4)
    assert docs.apply(plan).embedded == 8


def test_of_a_local_model_one_call_at_a_time(tmp_path: Any):
    """Models of services say 4, also behind `cached`; all others say nothing, which means 1."""
    from embeddings.models.openai import OpenAIEmbeddingModel

    service = OpenAIEmbeddingModel("toy")
    assert service.concurrency == cached(service, tmp_path / "paid.db").concurrency == 4
    assert WordLlamaModel().concurrency == DeterministicModel().concurrency == 1
    threads = set()

    class Watching(DeterministicModel):
        def embed_batch(self, items: Any) -> Any:
            threads.add(threading.current_thread())
            return super().embed_batch(items)

    docs = Collection("docs", tmp_path / "own.db", model=Watching())
    docs.embed_multi(numbered(9), batch_size=2)
    assert threads == {threading.main_thread()}
    threads.clear()
    docs.embed_multi(numbered(9, 20), batch_size=2, concurrency=2)
    assert threads
    assert threading.main_thread() not in threads


@on_a_session
@pytest.mark.parametrize("name", ["concurrency", "batch_size"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_how_many_has_to_be_a_number(docs: Collection[str], name: str, value: Any):
    """Before anything is read."""
    entries = iter(numbered(3))
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        docs.embed_multi(entries, **{name: value})
    with pytest.raises(ValueError, match='on_error must be "raise" or "skip"'):
        docs.embed_multi(entries, on_error="ignore")  # type: ignore[arg-type]
    assert len(list(entries)) == 3


@ENGINES
def test_a_content_that_is_in_flight_is_not_paid_twice(
    opened: Open, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """Also where the row that has it is replaced before its turn."""
    docs = opened(model=open_model(batch_size=2, concurrency=2))
    entries = [("a", "one"), ("b", "two"), ("c", "one"), ("d", "three"), ("e", "one")]
    entries += [("f", "four"), ("a", "five"), ("g", "one")]
    report = docs.embed_multi(entries)
    sent = [text for request in service.requests for text in texts_of(request)]
    assert sorted(sent) == sorted({text for _, text in entries})
    assert (report.embedded + report.reused, docs.count()) == (8, 7)
    found = {record.id: record.embedding.tolist() for record in docs}
    assert found == {id: vector_of(text) for id, text in dict(entries).items()}


@ENGINES
def test_what_was_paid_for_is_written_also_where_another_batch_fails(
    opened: Open, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """A quota that is exhausted: no request begins any more, and a second run pays the rest."""

    def third_fails(handler: Handler, request: Request) -> None:
        if texts_of(request)[0] == "text 0004":
            error(429, "insufficient_quota")(handler, request)
        else:
            right(handler, request)

    service.usual = third_fails
    docs = opened(model=open_model(batch_size=2, concurrency=3, max_retries=2))
    with pytest.raises(QuotaError) as raised:
        docs.embed_multi(numbered(40))
    assert raised.value.ids == ("0004", "0005")
    sent = {text for request in service.requests for text in texts_of(request)}
    assert len(service.requests) < 10, "requests began after the quota was exhausted"
    stored = {f"text {id}" for id in docs.ids()}
    assert stored == sent - {"text 0004", "text 0005"}

    service.usual = right
    before = len(service.requests)
    report = docs.embed_multi(numbered(40))
    assert (report.unchanged, report.embedded) == (len(stored), 40 - len(stored))
    sent_again = {text for one in service.requests[before:] for text in texts_of(one)}
    assert not sent_again & stored


@ENGINES
def test_an_error_of_the_entries_leaves_what_was_begun_written(
    opened: Open, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """Whether the generator fails, or an entry is refused."""
    docs = opened(model=open_model(batch_size=2, concurrency=3))

    def fails_at_the_end() -> Iterator[tuple[str, str]]:
        yield from numbered(8)
        raise RuntimeError("the file ends here")

    with pytest.raises(RuntimeError, match="the file ends here"):
        docs.embed_multi(fails_at_the_end())
    assert docs.count() == 8
    with pytest.raises(InvalidItemError, match="entries\\[4\\]"):
        docs.embed_multi([*numbered(4, 10), ("", "an id that is empty"), *numbered(4, 20)])
    assert docs.ids() == [id for id, _ in numbered(8) + numbered(4, 10)]


@ENGINES
def test_items_that_are_refused_by_themselves_are_skipped(
    opened: Open, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """They are reported by id with the service's reason; nothing is asked for twice."""
    answered: list[str] = []
    refusing = refuses("0013", "0014", "0031")

    def answer(handler: Handler, request: Request) -> None:
        if not any(n in text for n in ("0013", "0014", "0031") for text in texts_of(request)):
            answered.extend(texts_of(request))
        refusing(handler, request)

    service.usual = answer
    docs = opened(model=open_model(batch_size=20, concurrency=2))
    docs.embed("0031", "what it was before")
    answered.clear()
    entries: list[tuple[Any, str]] = [*numbered(40), ("empty", "")]
    report = docs.embed_multi(entries, on_error="skip")
    assert [id for id, _ in report.skipped] == ["0013", "0014", "0031", "empty"]
    assert {why for _, why in report.skipped[:3]} == {"input is not allowed by the policy"}
    assert "empty" in report.skipped[3][1]
    assert (report.embedded, docs.count()) == (37, 38)
    assert len(answered) == len(set(answered)) == 37
    record = docs.get("0031")
    assert record is not None
    assert record.embedding.tolist() == vector_of("what it was before")

    plan = docs.plan([("x", "0013"), ("y", "fine"), ("z", "0013")])
    report = plan.embed(on_error="skip")
    assert [id for id, _ in report.skipped] == ["x", "z"]
    assert (report.embedded, plan.new, plan.contents) == (1, ["y"], [])
    assert docs.apply(plan).embedded == 1
    assert docs.get("x") is None

    with pytest.raises(RefusedError) as raised:
        docs.embed_multi(numbered(40, 13))
    assert raised.value.ids in {("0013",), ("0014",), ("0031",)}


@ENGINES
def test_an_outage_stops_it_also_with_skip(
    opened: Open, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """A service that gives no answer, or refuses everything."""
    docs = opened(model=open_model(batch_size=5, concurrency=2))
    service.usual = hang_up
    with pytest.raises(UnavailableError):
        docs.embed_multi(numbered(40), on_error="skip")
    service.usual = error(404, "model_not_found")
    with pytest.raises(RefusedError) as raised:
        docs.embed_multi(numbered(40), on_error="skip")
    assert len(raised.value.ids) == 5
    assert docs.count() == 0


def test_behind_a_cache_the_right_item_is_named(
    tmp_path: Any, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """Though the service is sent only what the cache does not have."""
    service.usual = refuses("0003")
    model = cached(open_model(), tmp_path / "paid.db")
    model.embed_batch(["text 0000", "text 0002"])
    docs = Collection("docs", tmp_path / "own.db", model=model)
    with pytest.raises(RefusedError) as raised:
        docs.embed_multi(numbered(5))
    assert raised.value.ids == ("0003",)
    report = docs.embed_multi(numbered(5), on_error="skip")
    assert [id for id, _ in report.skipped] == ["0003"]
    sent = [text for request in service.requests for text in texts_of(request)]
    assert sent.count("text 0001") < 4  # halved, but kept as soon as it was answered
    before = len(service.requests)
    report = docs.embed_multi(numbered(3), force=True)
    assert (len(service.requests), report.requests, report.embedded) == (before, 0, 3)


def test_retries_are_requests_too(
    tmp_path: Any, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """Tokens are those that the service counts."""
    service.script = [error(503, None, retry_after="0.01"), right]
    docs = Collection("docs", tmp_path / "own.db", model=open_model(max_retries=1))
    report = docs.embed_multi(numbered(3))
    assert (report.requests, report.tokens, report.embedded) == (2, 1, 3)


@ENGINES
def test_progress_is_told(
    opened: Open,
    service: Server,
    open_model: Callable[..., OpenAIEmbeddingModel],
    capsys: pytest.CaptureFixture[str],
):
    """After each batch the items done and those in all, where that is known."""
    told: list[tuple[int, int | None]] = []
    docs = opened(model=open_model(batch_size=4))
    docs.embed_multi(numbered(10), progress=lambda *both: told.append(both))
    assert told == [(4, 10), (8, 10), (10, 10)]
    told.clear()
    docs.embed_multi(iter(numbered(10)), progress=lambda *both: told.append(both))
    assert told == [(4, None), (8, None), (10, None)]
    docs.plan(numbered(6, 20)).embed(progress=lambda *both: told.append(both))
    assert told[3:] == [(4, 6), (6, 6)]
    docs.embed_multi(numbered(10), progress=True)
    assert capsys.readouterr().err.endswith("[##############################] 10 of 10\n")
    docs.embed_multi(iter(numbered(10)), progress=True)
    assert capsys.readouterr().err == "\r4\r8\r10\n"
    with pytest.raises(TypeError, match="progress= takes a function"):
        docs.embed_multi(numbered(1), progress="yes")  # type: ignore[arg-type]


def test_a_generator_of_any_length_takes_no_more_memory(tmp_path: Any):
    """No further is read than is in flight."""

    class Small(DeterministicModel):
        concurrency = 3

        def embed_batch(self, items: Any) -> Any:
            return [[len(item), 1.0] for item in items]

    docs = Collection("docs", tmp_path / "own.db", model=Small())
    docs.embed_multi(numbered(200), batch_size=50)
    ahead: list[int] = []
    done = [0]

    def entries(count: int) -> Iterator[tuple[str, str]]:
        for number in range(count):
            ahead.append(number - done[0])
            yield f"{number:05}", f"{number:05}" * 400

    def peak(count: int) -> int:
        done[0] = 0
        gc.collect()
        tracemalloc.start()
        docs.embed_multi(
            entries(count),
            batch_size=50,
            progress=lambda now, _: done.__setitem__(0, now),
        )
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    one, eight = peak(300), peak(2_400)
    assert eight < 2 * one + 500_000
    assert max(ahead) < 3 * 50


INTERRUPTED = """
    import signal, sys
    import embeddings
    from embeddings import Collection
    from embeddings.models.openai import OpenAIEmbeddingModel

    model = OpenAIEmbeddingModel(
        "toy", api_key="k", base_url=sys.argv[1], batch_size=2, concurrency=3, max_retries=0,
    )
    docs = Collection("docs", sys.argv[2], model=model)
    # Python does not heed Ctrl-C where its parent ignores it, as what runs in the background does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    docs.embed_multi((f"{n:04}", f"text {n:04}") for n in range(100))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl_c", "kill"])
def test_an_interrupt_loses_at_most_what_is_in_flight(
    tmp_path: Any,
    service: Server,
    open_model: Callable[..., OpenAIEmbeddingModel],
    number: signal.Signals,
):
    """It ends at once, though the service gives no answer, and a second run goes on from there."""
    stuck = threading.Event()

    def answer(handler: Handler, request: Request) -> None:
        if int(texts_of(request)[0][5:]) >= 40:
            stuck.set()
            service.released.wait(60)
            handler.close_connection = True
        else:
            right(handler, request)

    service.usual = answer
    model = open_model()
    path = tmp_path / "own.db"
    script = textwrap.dedent(INTERRUPTED)
    said = tmp_path / "said"
    with started(
        *("-c", script, service.base_url, path),
        stdout=said,
        stderr=said,
        modules=MODELS,
    ) as process:
        assert stuck.wait(60)
        with Collection("docs", path, model=model) as docs:
            while docs.count() < 40:  # what was answered is written while others are waited for
                assert process.wait(0.01) is None
        process.send(number)
        assert process.wait(60) not in {None, 0}
    assert ("KeyboardInterrupt" in said.read_text()) is (number == signal.SIGINT)
    with Collection("docs", path, model=model) as docs:
        assert docs.count() == 40
        service.usual = right
        assert docs.embed_multi(numbered(100)).unchanged == 40


@ENGINES
def test_after_a_failure_nobody_pauses_to_ask_again(
    opened: Open, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """What came back by then is stored; a request that was to be sent again is not."""
    asked_to_wait, is_answered = threading.Event(), threading.Event()

    def answer(handler: Handler, request: Request) -> None:
        batch = int(texts_of(request)[0][5:]) // 2
        if batch == 0:  # fails when the others have their answers
            assert asked_to_wait.wait(30)
            assert is_answered.wait(30)
            error(429, "insufficient_quota")(handler, request)
        elif batch == 1:
            error(429, "rate_limit_exceeded", **{"retry-after": "25"})(handler, request)
            asked_to_wait.set()
        else:
            right(handler, request)
            is_answered.set()

    service.usual = answer
    docs = opened(model=open_model(batch_size=2, concurrency=3, max_retries=2))
    with pytest.raises(QuotaError) as raised:
        docs.embed_multi(numbered(6))
    assert raised.value.ids == ("0000", "0001")
    assert len(service.requests) == 3, "a request was sent again"
    assert docs.ids() == ["0004", "0005"]


@pytest.mark.parametrize("kind", ["awaited", "in_threads"])
def test_a_task_that_is_cancelled_leaves_no_request_behind(
    tmp_path: Any,
    service: Server,
    open_model: Callable[..., OpenAIEmbeddingModel],
    kind: str,
):
    """Whole batches stay."""
    arrived = threading.Semaphore(0)

    def answer(handler: Handler, request: Request) -> None:
        if int(texts_of(request)[0][5:]) >= 8:
            arrived.release()
            service.released.wait(30)
            handler.close_connection = True
        else:
            right(handler, request)

    service.usual = answer
    model: Any = open_model(batch_size=2, concurrency=3)
    if kind == "in_threads":

        class Blocking:
            model_id, batch_size, concurrency = "toy", 2, 3
            embed_batch = model.embed_batch

        model = Blocking()

    async def main() -> list[str]:
        async with AsyncCollection("docs", tmp_path / "own.db", model=model) as docs:
            writing = asyncio.create_task(docs.embed_multi(numbered(40)))
            for _ in range(3):
                await asyncio.to_thread(arrived.acquire)
            while await docs.count() < 8:
                await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            service.released.set()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not [task for task in others if "embed" in repr(task)]
            return await docs.ids()

    assert asyncio.run(main()) == [id for id, _ in numbered(8)]
    with pytest.raises(DoesNotExist):
        _ = Collection("other", tmp_path / "own.db", create=False).id


@on_a_session
def test_a_plan_tells_what_it_costs(opened: Open, open_model: Callable[..., OpenAIEmbeddingModel]):
    """Of what is new, before anything is spent; in the price's currency, for a million tokens."""
    docs = opened(model=open_model(document_prefix="doc: "))
    docs.embed("a", "hound")
    plan = docs.plan([("a", "hound"), ("b", "two cats"), ("c", "two cats"), ("d", "grün")])
    assert plan.contents == ["doc: two cats", "doc: grün"]
    assert (plan.characters, plan.tokens) == (13 + 9, 4 + 3)
    assert plan.cost(2_000_000.0) == plan.cost(Decimal(2_000_000)) == 14.0
    assert plan.cost(0) == 0.0
    wrong: Any
    for wrong in (-0.02, "0.02", None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="price must be a number, of a million tokens, not"):
            plan.cost(wrong)
    plan.embed()
    assert (plan.characters, plan.tokens, plan.cost(1.0)) == (0, 0, 0.0)

    class Counting(DeterministicModel):
        supports_binary = True

        def estimate_tokens(self, item: Any) -> int:
            return 7

    assert opened("own", model=Counting()).plan([("a", "hound"), ("b", "cat")]).tokens == 14
    both = DeterministicModel(supports_binary=True)
    plan = opened("bytes", model=both).plan([("a", "hound"), ("b", b"cat")])
    assert (plan.characters, plan.tokens) == (5, 2)


def test_what_is_over_is_finished_one_for_one():
    """While the rows of one batch are written the model is at the others: it is never idle."""
    events: list[str] = []

    class Flight:
        def is_over(self) -> bool:
            return events.count("begin") >= 3

    def begin(_: int) -> Flight:
        events.append("begin")
        return Flight()

    def finish(_: Flight) -> Report:
        events.append("finish")
        return Report(embedded=1)

    assert in_order(range(6), begin, finish, ahead=3) == Report(embedded=6)
    assert events == ["begin"] * 3 + ["finish", "begin"] * 3 + ["finish"] * 3
