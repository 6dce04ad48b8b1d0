"""Whatever an engine or the network does comes out as one of the closed set of failures, in words without prompts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import msgspec
import pytest

from standby.config import EngineSettings
from standby.engines.chat import Chat
from standby.engines.chat.failures import (
    PriorityRefused,
    error_of,
    from_exception,
    from_status,
    kind_of,
    read,
    retry_after_s,
)
from standby.errors import EngineError, Failure
from standby.wire.chat.dialect import GENERIC, HOST, VLLM
from tests.engines.chat.scripted import (
    Answer,
    Connect,
    Script,
    ask,
    chunk,
    forever,
    page,
    status,
    stream,
    usage,
)
from tests.engines.suite import is_idle, until

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)

STATUSES = {
    Failure.INVALID: {400, 413, 422},
    Failure.OVERLOADED: {429, 503, 529},
    Failure.TIMEOUT: {408, 504, 524, 598},
}


def test_every_status_has_its_failure() -> None:
    """From 300 to 599: what is not listed is the operator's fault below 500, and a broken engine above."""
    away = {501, 502, 521, 522, 523, 525, 526, 530}
    for code in range(300, 600):
        named = [kind for kind, codes in STATUSES.items() if code in codes]
        expected = named[0] if named else Failure.UNREACHABLE if code < 500 or code in away else Failure.BROKEN
        assert kind_of(code) is expected, code


def test_only_the_items_own_faults_are_final() -> None:
    """No status but 400, 413 and 422 (and a model that is not there) ends an item for good."""
    assert {code for code in range(300, 600) if not kind_of(code).retriable} == {400, 413, 422}


def _all(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _all(each)


AWAY = {
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorDNSError,
    aiohttp.client_exceptions.UnixClientConnectorError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientSSLError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.InvalidUrlClientError,
    aiohttp.RedirectClientError,
    aiohttp.InvalidUrlRedirectClientError,
    aiohttp.NonHttpUrlRedirectClientError,
}
LATE = {aiohttp.ServerTimeoutError, aiohttp.SocketTimeoutError}
BROKEN = {
    aiohttp.ClientError,
    aiohttp.ClientResponseError,
    aiohttp.ContentTypeError,
    aiohttp.WSServerHandshakeError,
    aiohttp.TooManyRedirects,
    aiohttp.ClientConnectionError,
    aiohttp.ClientConnectionResetError,
    aiohttp.ClientOSError,
    aiohttp.ServerConnectionError,
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientPayloadError,
    aiohttp.client_exceptions.UploadAbortedError,
}


def test_every_exception_of_the_client_has_its_failure() -> None:
    """The map is complete: an exception that aiohttp adds fails this test until somebody gives it a place."""
    found = {kind for kind in _all(aiohttp.ClientError) if kind.__module__.startswith("aiohttp")}
    assert found == AWAY | LATE | BROKEN
    for kinds, failure in ((AWAY, Failure.UNREACHABLE), (LATE, Failure.TIMEOUT), (BROKEN, Failure.BROKEN)):
        assert {kind for kind in kinds if from_exception(_made(kind)).failure is failure} == kinds


def _made(kind: type[Exception]) -> Exception:
    """Make an exception without what its constructor asks for."""
    return kind.__new__(kind)


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), ssl.SSLError(), ValueError("no chunk")])
def test_other_exceptions_break_the_attempt(error: Exception) -> None:
    """What sockets and parsers raise is tried again."""
    assert from_exception(error).failure is Failure.BROKEN


FAILURES: list[tuple[Answer, Failure]] = [
    (status(500), Failure.BROKEN),
    (status(502), Failure.UNREACHABLE),
    (status(503), Failure.OVERLOADED),
    (status(504), Failure.TIMEOUT),
    (status(529), Failure.OVERLOADED),
    (status(400, {"error": {"type": "bad_thing"}}), Failure.INVALID),
    (status(413), Failure.INVALID),
    (status(422), Failure.INVALID),
    (status(400, {"error": {"code": "model_not_found", "message": "no"}}), Failure.UNKNOWN_MODEL),
    (status(404, {"error": {"message": "The model `x` does not exist"}}), Failure.UNKNOWN_MODEL),
    (status(404, {"detail": "Not Found"}), Failure.UNREACHABLE),
    (status(401), Failure.UNREACHABLE),
    (status(403), Failure.UNREACHABLE),
    (status(405), Failure.UNREACHABLE),
    (status(204), Failure.BROKEN),
    (status(301, location="http://127.0.0.1:1/elsewhere"), Failure.UNREACHABLE),
    (status(307, location="/v1/elsewhere"), Failure.UNREACHABLE),
    (page(b"<html>Welcome</html>", "text/html"), Failure.UNREACHABLE),
    (page(b"hello", "text/plain"), Failure.BROKEN),
    (page(b'{"choices": [], "object": "chat.completion"}', "application/json"), Failure.BROKEN),
    (page(b'{"error": {"message": "no", "code": 503}}', "application/json"), Failure.OVERLOADED),
    (stream(chunk("Hi"), done=False), Failure.BROKEN),
    (stream(chunk("Hi")), Failure.BROKEN),
    (stream(b"data: {garbage\n\n"), Failure.BROKEN),
    (stream(b'data: {"choices": 5}\n\n'), Failure.BROKEN),
    (stream(b"\xff\xfe\x00\n\n"), Failure.BROKEN),
    (stream(b"data: " + b"x" * (17 * 2**20)), Failure.BROKEN),
    (stream(), Failure.BROKEN),
    (stream({"error": {"message": "out of memory"}}), Failure.BROKEN),
    (stream({"error": {"code": "invalid_schema"}}), Failure.INVALID),
    (stream({"error": {"code": 400, "message": "This model's maximum context length is 9 tokens"}}), Failure.INVALID),
    (stream(chunk("", finish="stop"), usage(3, 0)), Failure.EMPTY),
]


@pytest.mark.parametrize(("answer", "kind"), FAILURES)
async def test_each_failure_is_of_its_kind(script: Script, connect: Connect, answer: Answer, kind: Failure) -> None:
    """Statuses, redirects, pages, broken streams, garbage and empty answers become the closed set."""
    script.answer = answer
    assert (await failure(await connect())).failure is kind


async def failure(engine: Chat, **more: Any) -> EngineError:
    """Return how a request fails."""
    with pytest.raises(EngineError) as caught:
        await engine.generate(ask(), **more)
    assert is_idle(engine)
    return caught.value


LONG = "prompt is too long: 9000 tokens > 4096 maximum"
BOTH = (
    "input length and `max_tokens` exceed context limit: 2000 + 5000 > 4096, decrease input length or `max_tokens` and "
    "try again"
)
UNSAID = "prompt is too long for the context of this model"
TOO_LONG = {
    """This model's maximum context length is 4096 tokens. However, you requested 9100 tokens (9000 in the messages,
    100 in the completion). Please reduce the length of the messages or completion.""": LONG,
    """This model's maximum context length is 4096 tokens. However, you requested 5000 output tokens and your prompt
    contains at least 2000 input tokens, for a total of at least 7000 tokens.""": BOTH,
    """'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096 tokens
    and your request has 2000 input tokens (5000 > 4096 - 2000).""": BOTH,
    """You passed 2000 input tokens and requested 5000 output tokens. However, the model's context length is only
    4096 tokens, resulting in a maximum input length of 0 tokens.""": BOTH,
    """This model's maximum context length is 4096 tokens. However, your prompt contains at least 9000 input tokens,
    which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.""": LONG,
    """This model's maximum context length is 4096 tokens. However, your prompt contains 99000 characters (more than
    81920 characters, which is the upper bound for 4096 input tokens).""": UNSAID,
    "Input length (9000) exceeds model's maximum context length (4096).": LONG,
    """The decoder prompt (length 4097) plus the number of requested output tokens (at least 1) is longer than the
    maximum model length of 4097.""": "prompt is too long: 4097 tokens > 4096 maximum",
    "The decoder prompt (length 9000) is longer than the maximum model length of 4096. my secret": LONG,
    "The input (9000 tokens) is longer than the model's context length (4096 tokens).": LONG,
    """Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of
    7000 tokens: 2000 tokens from the input messages and 5000 tokens for the completion.""": BOTH,
    "This model's maximum context length is 4096 tokens. However, your messages resulted in 9000 tokens.": LONG,
    "the request exceeds the available context size, my secret": UNSAID,
}


@pytest.mark.parametrize(("message", "expected"), TOO_LONG.items())
def test_a_prompt_that_is_too_long_is_said_in_the_contracts_words(message: str, expected: str) -> None:
    """vLLM, SGLang and OpenAI say it in many ways; only their numbers are passed on."""
    message = " ".join(message.split())
    for body in ({"error": {"message": message, "type": "BadRequestError", "code": 400}}, {"message": message}):
        found = refusal(400, body)
        assert (found.failure, found.message) == (Failure.INVALID, expected)


def test_llamacpp_tells_both_numbers() -> None:
    """In fields of their own."""
    found = refusal(400, {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512}})
    assert (found.failure, found.message) == (Failure.INVALID, "prompt is too long: 900 tokens > 511 maximum")


def refusal(code: int, body: Any, *, host: bool = False, **headers: str) -> EngineError:
    """Turn a status and a body into a failure."""
    return from_status(code, headers, msgspec.json.encode(body), dialect=HOST if host else VLLM, now=NOW)


FIELDS = [
    ({"error": {"message": "my secret", "param": "temperature", "type": "invalid_request_error"}}, "temperature: "),
    ({"error": {"message": "my secret", "param": "max_completion_tokens", "code": "too_big"}}, "max_tokens: "),
    ({"error": {"message": "my secret", "param": "response_format"}}, "output_config.format: "),
    (
        {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "my secret", "type": "str"}]},
        "messages.0.content: ",
    ),
    ({"error": {"message": "my secret", "param": "my secret, a long story!"}}, "the engine refuses the request"),
    (
        {"error": {"message": "my secret", "type": "my secret!"}},
        "the engine refuses the request (400, no reason given)",
    ),
    ({"error": "my secret"}, "the engine refuses the request"),
    ({"detail": "my secret"}, "the engine refuses the request"),
    (["my secret"], "the engine refuses the request"),
]


@pytest.mark.parametrize(("body", "begins"), FIELDS)
def test_the_field_at_fault_is_named_and_the_engines_words_are_not_repeated(body: Any, begins: str) -> None:
    """An engine that echoes the request in its error is not believed to be discreet."""
    found = refusal(400, body)
    assert found.failure is Failure.INVALID
    assert found.message.startswith(begins)
    assert "secret" not in found.message


def test_our_own_hosts_words_are_passed_on() -> None:
    """They never contain a prompt."""
    assert refusal(400, {"error": {"message": "stop: too many"}}, host=True).message == "stop: too many"


def test_a_server_without_a_tool_parser_is_said_to_be_one() -> None:
    """VLLM's refusal names two flags; the client learns which field, the operator what to set."""
    words = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    found = refusal(400, {"error": {"message": words}})
    assert found.message.startswith("tools: ")
    assert "engine.tools" in found.message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (400, "At most 0 image(s) may be provided in one prompt."),
        (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"),
    ],
)
def test_a_model_without_eyes_is_said_to_be_one(code: int, words: str) -> None:
    """Engines refuse images in their own words; llama.cpp calls it its own failure, but no retry would help."""
    found = refusal(code, {"error": {"message": words, "code": code}})
    assert (found.failure, found.message) == (Failure.INVALID, "messages: the model behind this name takes no images")


@pytest.mark.parametrize(
    "message",
    [
        "Got priority 10 but Priority scheduling is not enabled.",
        "Using priority is disabled for this server. Please send a new request without a priority.",
    ],
)
def test_a_refused_priority_is_told_from_a_refused_request(message: str) -> None:
    """VLLM and SGLang; also in a stream."""
    body = {"error": {"message": message, "code": 503}}
    assert isinstance(refusal(503, body), PriorityRefused)
    with pytest.raises(PriorityRefused):
        read(msgspec.json.encode(body))


def test_an_engine_that_loads_is_not_there_yet() -> None:
    """llama.cpp's 503: no sign of overload, and no attempt of the item."""
    found = refusal(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
    assert (found.failure, found.message) == (Failure.UNREACHABLE, "the engine is still loading its model")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0.0),
        ("1e9", 3600.0),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, expected: float | None) -> None:
    """Bounded, and never a guess."""
    assert retry_after_s({"retry-after": text}, NOW) == expected


async def test_an_overloaded_engine_says_when_to_come_back(script: Script, connect: Connect) -> None:
    """`retry-after` is passed on."""
    script.answer = status(429, **{"retry-after": "7"})
    assert (await failure(await connect())).retry_after_s == 7


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'"text"', b'{"error": 5}', b"\xff", b"[" * 100_000])
def test_no_body_is_too_strange(body: bytes) -> None:
    """An error is found in it, or none."""
    assert error_of(body) in ({}, {"error": 5})


async def test_the_operators_fault_is_logged_once(
    script: Script, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """However many requests run into it, and again after it was put right."""
    engine = await connect(VLLM)
    good, script.answer = script.answer, status(401)
    for _ in range(3):
        await failure(engine)
    assert _warnings(caplog) == ["the engine does not take our requests (401); are URL and key right?"]
    script.answer = good
    await engine.generate(ask())
    script.answer = status(401)
    await failure(engine)
    assert len(_warnings(caplog)) == 2


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage().partition(": ")[2] for r in caplog.records if r.levelname == "WARNING"]


async def test_an_endpoint_that_is_away_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not ready while nobody listens, and ready soon after somebody does."""
    monkeypatch.setattr("standby.engines.chat.engine.LOOK_AGAIN_S", 0.01)
    script = Script()
    runner = await script.start()
    engine = Chat(EngineSettings(), base_url=script.url)
    await engine.start()
    assert engine.ready()
    port = runner.addresses[0][1]
    await runner.cleanup()
    assert (await failure(engine)).failure in {Failure.UNREACHABLE, Failure.BROKEN}
    assert (await failure(engine)).failure is Failure.UNREACHABLE
    assert not engine.ready()
    runner = await script.start(port=port)
    await until(engine.ready)
    await engine.generate(ask())
    await engine.close()
    await runner.cleanup()


async def test_a_model_that_loads_is_waited_for(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp answers 503 on every route until then."""
    monkeypatch.setattr("standby.engines.chat.engine.LOOK_AGAIN_S", 0.01)
    listed = script.pages["/v1/models"]
    script.pages["/v1/models"] = status(503, {"error": {"code": 503, "message": "Loading model"}})
    engine = Chat(EngineSettings(), base_url=script.url)
    await engine.start()
    assert not engine.ready()
    script.pages["/v1/models"] = listed
    await until(engine.ready)
    await engine.close()


async def test_a_model_that_vanished_is_asked_for_again(
    script: Script, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that swaps models: its list is read again, and aliases lead to what is there now."""
    monkeypatch.setattr("standby.engines.chat.engine.LOOK_AGAIN_S", 0.01)
    engine = await connect(GENERIC)
    good, script.answer = script.answer, status(404, {"error": {"message": 'model "little-model" not found'}})
    script.pages["/v1/models"] = {"data": [{"id": "other-model"}]}
    assert (await failure(engine)).failure is Failure.UNKNOWN_MODEL
    await until(engine.ready)
    script.answer = good
    assert await engine.resolve("claude-haiku-4-5") == "other-model"


async def test_a_finished_stream_gives_its_connection_back(script: Script, connect: Connect) -> None:
    """Requests one after another use one connection."""
    engine = await connect(GENERIC)
    for _ in range(4):
        await engine.generate(ask())
    assert len(script.peers) == 1


async def test_an_answer_that_does_not_end_is_ended(script: Script, connect: Connect) -> None:
    """An engine that ignores `max_tokens` is left, and stops."""
    script.answer = forever(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n' * 500, every_s=0.0)
    found = await failure(await connect(VLLM))
    assert (found.failure, found.message) == (
        Failure.BROKEN,
        "the engine does not end its answer at max_tokens",
    )
    await asyncio.wait_for(script.left.wait(), 10)
