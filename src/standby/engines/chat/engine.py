"""Any engine with `/v1/chat/completions`: our host, llama.cpp, vLLM, hosted ones.

Always streams towards the engine, so that a stall is noticed and closing the connection stops the work.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import aiohttp
import msgspec

from standby.config import EngineSettings
from standby.engines.base import NO_CONTEXT, CacheProfile, Context, EngineProfile, Model, Signals
from standby.errors import EngineError, Failure, invalid, unknown_model
from standby.records import SECOND, Load
from standby.wire.chat.dialect import BY_OWNER, GENERIC, HOST, Dialect
from standby.wire.chat.reply import Chunk, Writing, read_chunk
from standby.wire.chat.request import chat_body, chat_turns
from standby.wire.messages import (
    Accumulator,
    CountParams,
    Event,
    Message,
    MessageParams,
)
from standby.wire.sse import SseParser

T = TypeVar("T")
CONNECT_S = 10.0
PROBE_S = 2.0
IDLE_S = 2.0
"""How long an idle connection is kept: less than the 5 s after which engines close theirs."""
DEFAULT_SLOTS = 8
OVERLOADED = frozenset({429, 503, 529})
SLOW = frozenset({408, 504})
NOT_OURS = frozenset({401, 402, 403, 405})
"""Statuses that are the operator's to put right, never the item's fault."""
log = logging.getLogger("standby.engines.chat")


class Chat:
    """One endpoint that speaks chat-completions."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        base_url: str = "http://localhost",
        uds: str | None = None,
        dialect: Dialect | None = None,
        cache: CacheProfile = CacheProfile.SHARED_AFTER_FIRST_TOKEN,
        name: str = "chat",
        slots: int = 0,
    ) -> None:
        """Keep the address; `uds` is the path of a unix socket. With no `dialect` the engine is asked what it is."""
        self._settings = settings
        self._base = re.sub(r"(/v1)?/*$", "", base_url)
        self._uds = uds
        self._dialect = dialect
        self._cache = cache
        self._name = name
        self._slots = slots or settings.slots or DEFAULT_SLOTS
        self._session: aiohttp.ClientSession | None = None
        self._probing: asyncio.Task[None] | None = None
        self._models: list[Model] = []
        self._ready = self._closed = False
        self._live = 0
        self._batch = 0

    @property
    def profile(self) -> EngineProfile:
        """What it declares."""
        yields = self._dialect is HOST
        return EngineProfile(name=self._name, slots=self._slots, cache=self._cache, yields_to_live=yields)

    async def start(self) -> None:
        """Open the connection pool and look at the engine; if it does not answer, keep looking."""
        self._open()
        with suppress(EngineError):
            await self._probe()
        if not self._ready:
            self._look_again()

    async def close(self) -> None:
        """Close every connection."""
        self._ready, self._closed = False, True
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        if self._session is not None:
            await self._session.close()

    def ready(self) -> bool:
        """Whether it answered the last time."""
        return self._ready

    def load(self) -> Load:
        """What we have in flight there."""
        return Load(live=self._live, batch=self._batch, slots=self._slots)

    async def generate(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = False,
        context: Context = NO_CONTEXT,  # noqa: ARG002 - not needed here
    ) -> Message:
        """Answer one request."""
        whole = Accumulator()
        async with aclosing(self.stream(params, deadline_us=deadline_us, live=live)) as events:
            async for event in events:
                whole.add(event)
        return whole.message

    async def stream(
        self,
        params: MessageParams,
        *,
        deadline_us: int | None = None,
        live: bool = True,
        context: Context = NO_CONTEXT,  # noqa: ARG002 - not needed here
    ) -> AsyncGenerator[Event, None]:
        """Answer one request as events."""
        model = await self.resolve(params.model)
        dialect = self._dialect or GENERIC
        temperature = self._settings.temperature if self._settings.temperature >= 0 else None
        body = chat_body(params, model=model, dialect=dialect, live=live, temperature=temperature)
        writing = Writing(params, model=model, dialect=dialect)
        with self._counted(live=live):
            async with aclosing(self._chunks(body, deadline_us)) as chunks:
                async for chunk in chunks:
                    for event in writing.take(chunk):
                        yield event
                    if writing.is_over:
                        break
            for event in writing.end():
                yield event

    async def count_tokens(self, params: CountParams) -> int:
        """Count with the engine's own tokenizer and template; `InvalidParams` if it has no way to tell."""
        model = await self.resolve(params.model)
        turns = chat_turns(params)
        match (self._dialect or GENERIC).counts:
            case "host":
                return int((await self._ask("/count_tokens", {"messages": turns}))["tokens"])
            case "vllm":
                return int((await self._ask("/tokenize", {"model": model, "messages": turns}))["count"])
            case "llamacpp":
                prompt = (await self._ask("/apply-template", {"messages": turns}))["prompt"]
                asked = {"content": prompt, "add_special": True, "parse_special": True}
                return len((await self._ask("/tokenize", asked))["tokens"])
            case "none":
                raise invalid(f"model: the engine behind {model} cannot count tokens")

    async def models(self) -> list[Model]:
        """List what it serves, newest first."""
        if not self._models:
            await self._probe()
        return sorted(self._models, key=lambda m: -m.created_us)

    async def resolve(self, model: str) -> str:
        """Return the real id for a name or an alias; raises `unknown_model`."""
        return resolve_name(model, await self.models(), self._settings.aliases)

    async def signals(self) -> Signals | None:
        """Read the engine's own metrics."""
        return None

    async def check(self) -> None:
        """Ask for a sign of life; raises `EngineError`."""
        await self._ask("/health", None)

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise EngineError(Failure.UNREACHABLE, "the engine is closed")
        if self._session is None:
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(self._uds, limit=0, keepalive_timeout=IDLE_S)
                if self._uds
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
            )
            key = self._settings.api_key
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers={"authorization": f"Bearer {key}"} if key else {},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=True,
                trust_env=False,
            )
        return self._session

    def _look_again(self) -> None:
        self._ready = False
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe_until_ready())

    async def _probe_until_ready(self) -> None:
        while not self._ready:
            await asyncio.sleep(PROBE_S)
            with suppress(EngineError):
                await self._probe()

    async def _probe(self) -> None:
        listed = await self._ask("/v1/models", None)
        try:
            entries = [entry for entry in listed["data"] if isinstance(entry["id"], str)]
        except (KeyError, TypeError):
            raise EngineError(Failure.BROKEN, "the engine's list of models cannot be read") from None
        self._models = [_model(entry) for entry in entries]
        if self._dialect is None and entries:
            self._dialect = BY_OWNER.get(str(entries[0].get("owned_by")), GENERIC)
        self._ready = True

    @asynccontextmanager
    async def _request(self, path: str, body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and look at its status; every failure comes out as `EngineError`."""
        method = "GET" if body is None else "POST"
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if data is None else {"content-type": "application/json"}
        try:
            async with await self._send(method, f"{self._base}{path}", data, headers) as response:
                if response.status >= 400:
                    raise _refusal(response.status, response.headers, await response.content.read(65536), self._dialect)
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            self._look_again()
            raise EngineError(Failure.UNREACHABLE, f"the engine cannot be reached ({type(error).__name__})") from None
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            raise EngineError(Failure.BROKEN, f"the engine broke off ({type(error).__name__})") from None

    async def _send(self, method: str, url: str, data: bytes | None, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Send; once more if an idle connection turns out to be closed by the other side."""
        session = self._open()
        try:
            return await session.request(method, url, data=data, headers=headers)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await session.request(method, url, data=data, headers=headers)

    async def _ask(self, path: str, body: Any) -> Any:
        try:
            async with asyncio.timeout(CONNECT_S), self._request(path, body) as response:
                return msgspec.json.decode(await response.read())
        except TimeoutError:
            raise EngineError(Failure.TIMEOUT, f"the engine did not answer {path} in {CONNECT_S:.0f} s") from None

    async def _chunks(self, body: dict[str, Any], deadline_us: int | None) -> AsyncGenerator[Chunk, None]:
        """Send the request and read its stream; ends after `[DONE]`, or raises `EngineError`."""
        patience = _Patience(self._settings, deadline_us)
        parser = SseParser()
        async with AsyncExitStack() as stack:
            response = await patience.wait_for(stack.enter_async_context(self._request("/v1/chat/completions", body)))
            while data := await patience.wait_for(response.content.readany()):
                for event in parser.feed(data):
                    if event.data == b"[DONE]":
                        return
                    patience.started = True
                    yield read_chunk(event.data)
            raise EngineError(Failure.BROKEN, "the engine ended the stream before it was done")

    def _counted(self, *, live: bool) -> _Counted:
        return _Counted(self, live=live)

    def _count(self, change: int, *, live: bool) -> None:
        if live:
            self._live += change
        else:
            self._batch += change


class _Counted:
    """Counts one request in flight."""

    def __init__(self, chat: Chat, *, live: bool) -> None:
        self._chat = chat
        self._live = live

    def __enter__(self) -> None:
        self._chat._count(1, live=self._live)  # noqa: SLF001 - its own class

    def __exit__(self, *_: object) -> None:
        self._chat._count(-1, live=self._live)  # noqa: SLF001


class _Patience:
    """How long the engine may be silent: until the first token, between tokens, and never past the deadline."""

    def __init__(self, settings: EngineSettings, deadline_us: int | None) -> None:
        self._settings = settings
        self._deadline_us = deadline_us
        self.started = False

    async def wait_for(self, awaited: Awaitable[T]) -> T:
        """Wait for the engine; the time a consumer takes between two waits does not count."""
        try:
            async with asyncio.timeout(self._silence_s()):
                return await awaited
        except TimeoutError:
            raise EngineError(Failure.TIMEOUT, self._words()) from None

    def _silence_s(self) -> float:
        silence = self._settings.stall_timeout_s if self.started else self._settings.first_token_timeout_s
        if self._deadline_us is None:
            return silence
        return max(0.0, min(silence, (self._deadline_us - time.time_ns() // 1000) / SECOND))

    def _words(self) -> str:
        if self._deadline_us is not None and self._deadline_us <= time.time_ns() // 1000:
            return "the deadline passed before the engine was done"
        return "the engine stalled between tokens" if self.started else "the engine did not begin to answer in time"


def resolve_name(model: str, served: list[Model], aliases: tuple[str, ...]) -> str:
    """Return the id that serves requests for `model`: itself, or the first one if an alias fits."""
    ids = [m.id for m in served]
    if model in ids:
        return model
    if ids and any(fnmatchcase(model, alias) for alias in aliases):
        return ids[0]
    raise unknown_model(model)


def _model(entry: dict[str, Any]) -> Model:
    meta = entry.get("meta")
    context = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None) or 0
    return Model(
        id=entry["id"],
        display_name=entry["id"],
        created_us=int(entry.get("created") or 0) * SECOND,
        max_input_tokens=int(context),
        max_output_tokens=int(context),
    )


def _refusal(status: int, headers: Any, body: bytes, dialect: Dialect | None) -> EngineError:
    """Turn an HTTP status into the kind of failure it is."""
    error = _error_of(body)
    if status in OVERLOADED:
        wait_s = _retry_after(headers)
        return EngineError(Failure.OVERLOADED, f"the engine is overloaded ({status})", retry_after_s=wait_s)
    if status in SLOW:
        return EngineError(Failure.TIMEOUT, f"the engine gave up waiting ({status})")
    if status >= 500:
        return EngineError(Failure.BROKEN, f"the engine failed ({status})")
    if status in NOT_OURS or status == 404:
        return _misplaced(status, error)
    return EngineError(Failure.INVALID, _words(status, error, dialect))


def _misplaced(status: int, error: dict[str, Any]) -> EngineError:
    names_model = "model" in str(error.get("message", "")).lower() or error.get("code") == "model_not_found"
    if status == 404 and names_model:
        return EngineError(Failure.UNKNOWN_MODEL, "the engine does not serve this model")
    return EngineError(Failure.UNREACHABLE, f"the engine does not take our requests ({status}); are URL and key right?")


def _words(status: int, error: dict[str, Any], dialect: Dialect | None) -> str:
    """Say why, in the engine's words only where those cannot contain the prompt."""
    tokens, most = error.get("n_prompt_tokens"), error.get("n_ctx")
    if isinstance(tokens, int) and isinstance(most, int):
        return f"prompt is too long: {tokens} tokens > {most - 1} maximum"
    if dialect is HOST and isinstance(error.get("message"), str):
        return str(error["message"])
    return f"the engine refuses the request ({status}, {error.get('code') or error.get('type') or 'no reason given'})"


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    error = found.get("error", found) if isinstance(found, dict) else {}
    return error if isinstance(error, dict) else {}


def _retry_after(headers: Any) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
