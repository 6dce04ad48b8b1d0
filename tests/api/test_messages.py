from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from standby.api import messages
from standby.api.deps import Phase
from standby.api.faults import answer_to
from standby.errors import EngineError, Failure, invalid
from tests.api.client import Answer, Client, Leaving
from tests.api.world import MODEL, World, engine_fault, message

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"


def events_in(answer: Answer) -> list[tuple[str, Any]]:
    """Read frames strictly: an `event:` line, one `data:` line, a blank line."""
    found = []
    frames = answer.body.decode().split("\n\n")
    assert frames.pop() == ""
    for frame in frames:
        name, data = frame.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name[7:], json.loads(data[6:])))
    return found


async def test_whole_answer(world: World, client: Client) -> None:
    """A live answer is a complete Message of the standard tier (item 20)."""
    answer = (await client.post(MESSAGES, message())).ok()

    assert answer["type"] == "message"
    assert answer["model"] == MODEL.id
    assert answer["content"] == [{"type": "text", "text": "As you wish.", "citations": None}]
    assert answer["stop_reason"] == "end_turn"
    assert answer["usage"]["service_tier"] == "standard"
    assert answer["usage"]["cache_read_input_tokens"] == 0


async def test_stream(client: Client) -> None:
    """A stream has every event in its order, named as its data says, and no `[DONE]` (item 28)."""
    answer = await client.post(MESSAGES, message(stream=True), headers={"accept-encoding": "gzip"})
    events = events_in(answer)

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-encoding" not in answer.headers
    assert "request-id" in answer.headers
    assert answer.is_complete
    assert all(name == data["type"] for name, data in events)
    names = [name for name, _ in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}
    assert "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta") == "As you wish."
    assert events[0][1]["message"]["usage"]["service_tier"] == "standard"
    assert events[-2][1]["usage"]["output_tokens"] == 4
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "type_"),
    [
        (Failure.OVERLOADED, 529, "overloaded_error"),
        (Failure.UNREACHABLE, 503, "api_error"),
        (Failure.TIMEOUT, 504, "timeout_error"),
        (Failure.BROKEN, 500, "api_error"),
        (Failure.EMPTY, 500, "api_error"),
        (Failure.INVALID, 400, "invalid_request_error"),
        (Failure.UNKNOWN_MODEL, 404, "not_found_error"),
    ],
)
async def test_failures_before_the_first_event(
    world: World, client: Client, failure: Failure, status: int, type_: str, *, stream: bool
) -> None:
    """A failure of the engine before its first event is an HTTP status, streaming or not."""
    world.engine.fault = engine_fault(failure)

    (await client.post(MESSAGES, message(stream=stream))).error(status, type_)


async def test_every_failure_has_an_answer() -> None:
    """No kind of failure is without a status."""
    assert all(400 <= answer_to(EngineError(failure, "x")).status < 600 for failure in Failure)


async def test_overloaded_says_when_to_come_back(world: World, client: Client) -> None:
    """What the engine asked for becomes `retry-after` in whole seconds."""
    world.engine.fault = engine_fault(Failure.OVERLOADED, retry_after_s=2.4)

    answer = await client.post(MESSAGES, message())

    answer.error(529, "overloaded_error")
    assert answer.headers["retry-after"] == "2"


async def test_failure_in_mid_stream_is_an_event(world: World, client: Client) -> None:
    """After the first event a failure is an `error` event, and nothing follows it."""
    world.engine.fault, world.engine.events_before_fault = engine_fault(Failure.OVERLOADED), 4

    answer = await client.post(MESSAGES, message(stream=True))
    events = events_in(answer)

    assert answer.status == 200
    assert answer.is_complete
    assert [name for name, _ in events][-1] == "error"
    assert len(events) == 5
    last = events[-1][1]
    assert last["error"] == {"type": "overloaded_error", "message": "The engine said no."}
    assert last["request_id"] == answer.headers["request-id"]


async def test_unforeseen_failure_in_mid_stream_tells_nothing(world: World, client: Client) -> None:
    """An error that nobody foresaw ends the stream with an event that tells nothing of its inside."""
    world.engine.fault, world.engine.events_before_fault = KeyError("the prompt was: secret"), 2

    answer = await client.post(MESSAGES, message(stream=True))

    assert events_in(answer)[-1][1]["error"] == {"type": "api_error", "message": "Internal server error"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hangs_after", [0, 3])
async def test_client_that_leaves_stops_the_engine(
    world: World, client: Client, hangs_after: int, *, stream: bool
) -> None:
    """Work for a client that is gone is cancelled in the engine, before the first event and after it."""
    world.engine.hangs_after = hangs_after
    leaving = Leaving(after_pieces=3)
    sending = asyncio.create_task(client.post(MESSAGES, message(stream=stream), leaving=leaving))
    await world.engine.begun.wait()
    if not stream or hangs_after == 0:
        leaving.now.set()

    await sending

    assert world.engine.stopped.is_set()


async def test_silence_is_filled_with_pings(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the engine is silent the client gets pings, so that nobody in between hangs up."""
    monkeypatch.setattr(messages, "PING_S", 0.001)
    world.engine.hangs_after = 2

    answer = await client.post(MESSAGES, message(stream=True), leaving=Leaving(after_pieces=6))

    assert [line for line in answer.body.decode().splitlines() if line.startswith("event: ")][2:] == ["event: ping"] * 4
    assert world.engine.stopped.is_set()


@pytest.mark.parametrize(
    ("change", "status", "type_", "words"),
    [
        ({"model": "gpt-2"}, 404, "not_found_error", "model: gpt-2"),
        ({"messages": []}, 400, "invalid_request_error", "messages: at least one message is required"),
        ({"max_tokens": 5000}, 400, "invalid_request_error", "max_tokens: 5000 > 4096, which is the maximum"),
        ({"nonsense": 1}, 400, "invalid_request_error", "nonsense: Extra inputs are not permitted"),
        ({"max_tokens": "many"}, 400, "invalid_request_error", "max_tokens"),
    ],
)
async def test_faults_of_params(client: Client, change: dict[str, Any], status: int, type_: str, words: str) -> None:
    """What becomes an errored row in a batch is a status here."""
    assert words in (await client.post(MESSAGES, message() | change)).error(status, type_)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'"x"', b"\xef\xbb\xbf{}", b"[" * 100_000])
async def test_bodies_that_are_no_params(client: Client, body: bytes) -> None:
    """Whatever the body is, the answer is a 400 in the contract's shape."""
    (await client.post(MESSAGES, body)).error(400, "invalid_request_error")
    (await client.post(COUNT, body)).error(400, "invalid_request_error")


async def test_engine_that_cannot_express_params(world: World, client: Client) -> None:
    """What this engine cannot do is a 400 with the engine's words."""
    world.engine.fault = invalid("tools: this engine has none")

    assert "tools" in (await client.post(MESSAGES, message())).error(400, "invalid_request_error")


async def test_rules_of_the_version_apply(client: Client) -> None:
    """Sampling parameters are legal under the old version and 400 under the new one (item 11)."""
    body = message(temperature=0.5)

    (await client.post(MESSAGES, body)).ok()
    refused = await client.post(MESSAGES, body, headers={"anthropic-version": "2026-10-21"})

    refused.error(400, "invalid_request_error")
    (await client.post(MESSAGES, message(), headers={"anthropic-version": "2026-10-21"})).ok()


async def test_large_body(world: World, client: Client) -> None:
    """A body of megabytes, in pieces and compressed, arrives whole; beyond 32 MiB it is 413."""
    text = "words " * 200_000
    raw = json.dumps(message(messages=[{"role": "user", "content": text}])).encode()
    pieces = [raw[i : i + 65_536] for i in range(0, len(raw), 65_536)]

    (await client.post(MESSAGES, pieces)).ok()
    (await client.post(MESSAGES, gzip.compress(raw), headers={"content-encoding": "gzip"})).ok()
    bomb = await client.post(MESSAGES, gzip.compress(bytes(33 << 20)), headers={"content-encoding": "gzip"})

    assert [params.messages[0].content for params in world.engine.seen] == [text, text]
    bomb.error(413, "request_too_large")


async def test_announced_size_is_refused_at_once(client: Client) -> None:
    """A `Content-Length` beyond the limit is 413 before the body is looked at."""
    answer = await client.post(MESSAGES, [b"{", b"}"], headers={"content-length": str(33 << 20)})

    answer.error(413, "request_too_large")


async def test_any_content_type(client: Client) -> None:
    """A wrong content type is no reason to refuse."""
    for kind in ("text/plain", "application/json; charset=latin-1", "application/x-www-form-urlencoded", ""):
        (await client.post(MESSAGES, message(), headers={"content-type": kind})).ok()


async def test_count_tokens(client: Client) -> None:
    """Token counts need no `max_tokens` and answer one number."""
    body = {"model": "claude-sonnet-5-5", "messages": [{"role": "user", "content": "one"}]}

    assert (await client.post(COUNT, body)).ok() == {"input_tokens": 7}
    assert (await client.post(f"{COUNT}?beta=true", body)).ok() == {"input_tokens": 7}


async def test_draining_server_takes_no_live_work(world: World, client: Client) -> None:
    """A server that goes down answers 529, so that an SDK tries again elsewhere or later."""
    world.phase[0] = Phase.DRAINING

    (await client.post(MESSAGES, message())).error(529, "overloaded_error")
