"""Live requests: messages, whole or as events, and token counts (contract 3 and 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
import structlog
from msgspec.structs import replace
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from standby.api.batches import check_awake
from standby.api.bodies import read_body
from standby.api.call import Caller, call_of
from standby.api.deps import Deps
from standby.api.faults import answer_to, describe
from standby.api.replies import Streamed, close, json_reply, unless_gone
from standby.api.till import Receipt
from standby.engines.base import Context, check_model
from standby.errors import EngineError, Failure
from standby.pricing.bills import estimate_of
from standby.wire.errors import error_event
from standby.wire.messages import (
    Event,
    Message,
    MessageParams,
    MessageStart,
    Ping,
    decode_count_params,
    decode_params,
    encode_message,
)
from standby.wire.sse import encode_event

OFF_LOOP = 1 << 18
"""From this size on a body is decoded in a thread, so that nobody else waits for it."""
PING_S = 15.0
BYTES_A_TOKEN = 4
LIKELY_ANSWER = 1024
"""What is reserved for an answer: its `max_tokens`, but no more tokens than this, since few answers are longer."""
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
T = TypeVar("T")

log = structlog.get_logger("standby.api")


class Messages:
    """Create and count."""

    def __init__(self, deps: Deps) -> None:
        """Keep what the verbs need."""
        self._deps = deps

    async def create(self, request: Request, caller: Caller) -> ASGIApp:
        """Answer now; work for a client that leaves is stopped in the engine."""
        check_awake(self._deps)
        body = await read_body(request)
        params = await decoded(
            body, lambda raw: decode_params(raw, rules=caller.rules, batch=False, beta=is_beta(request))
        )
        await check_model(self._deps.engine, params)
        context = Context(workspace_id=caller.workspace_id, simulate=caller.rules.simulate)
        tab = await self._reserve(caller, params, len(body))
        if params.stream:
            return Closing(await tab.over(self._streamed(request, params, context, tab)), tab)
        message = await tab.over(
            unless_gone(request.receive, self._deps.engine.generate(params, live=True, context=context))
        )
        tab.charge(message)
        return json_reply(encode_message(as_live(message)))

    async def count_tokens(self, request: Request, caller: Caller) -> ASGIApp:
        """Count the tokens of a prompt."""
        body = await read_body(request)
        params = await decoded(body, lambda raw: decode_count_params(raw, rules=caller.rules, beta=is_beta(request)))
        count = await unless_gone(request.receive, self._deps.engine.count_tokens(params))
        return json_reply(msgspec.json.encode({"input_tokens": count}))

    async def _reserve(self, caller: Caller, params: MessageParams, size: int) -> Tab:
        """Reserve what the request is expected to cost; `LimitReached` if its workspace may spend no more."""
        deps, estimate = self._deps, 0
        if deps.spending.is_limited(caller.workspace_id):
            estimate = estimate_of(
                deps.prices,
                await deps.engine.resolve(params.model),
                prompt_tokens=size // BYTES_A_TOKEN,
                output_tokens=min(params.max_tokens, LIKELY_ANSWER),
                now_us=deps.clock(),
                is_batch=False,
            )
        return Tab(deps, caller, await deps.spending.reserve(caller.workspace_id, estimate))

    async def _streamed(self, request: Request, params: MessageParams, context: Context, tab: Tab) -> ASGIApp:
        """Wait for the first event before the status is sent, so that a failure until then is a plain error."""
        events = self._deps.engine.stream(params, live=True, context=context)
        first = await unless_gone(request.receive, _next(events))
        if first is None:
            raise EngineError(Failure.EMPTY, "The engine gave no answer.")
        return Streamed(_frames(first, events, call_of(request.scope).request_id, tab.charge), headers=EVENTS)


class Tab:
    """What was reserved for one live request: it becomes a charge, or is given back."""

    def __init__(self, deps: Deps, caller: Caller, token: int) -> None:
        """Keep the reservation."""
        self._deps = deps
        self._caller = caller
        self._token: int | None = token

    def charge(self, message: Message) -> None:
        """Charge a complete answer; from here on the till holds the reservation, until the ledger has the charge."""
        token, self._token = self._token, None
        self._deps.till.charge(self._caller.principal, message, token=token)

    def close(self) -> None:
        """Give back what did not become a charge."""
        token, self._token = self._token, None
        if token is not None:
            self._deps.spending.release(token)

    async def over(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work; if it fails, nothing is reserved any more."""
        try:
            return await work
        except BaseException:
            self.close()
            raise


class Closing:
    """An answer at whose end the tab is closed, however it ends."""

    def __init__(self, app: ASGIApp, tab: Tab) -> None:
        """Wrap the answer."""
        self._app = app
        self._tab = tab

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await self._app(scope, receive, send)
        finally:
            self._tab.close()


async def decoded(raw: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode a body, large ones off the event loop."""
    return await asyncio.to_thread(decode, raw) if len(raw) >= OFF_LOOP else decode(raw)


def is_beta(request: Request) -> bool:
    """Whether an old SDK's beta methods call: `?beta=true`."""
    return request.query_params.get("beta") == "true"


def as_live(message: Message) -> Message:
    """Say in the usage that this was no batch."""
    return replace(message, usage=replace(message.usage, service_tier="standard"))


async def _frames(
    first: Event, events: AsyncIterator[Event], request_id: str, charge: Callable[[Message], None]
) -> AsyncGenerator[bytes]:
    """Write events as frames; what fails now becomes the last event, since the status is out.

    A complete answer is charged before its last event is sent: a client that leaves there had it all.
    """
    receipt = Receipt()
    try:
        async with aclosing(_paced(first, events)) as paced:
            async for event in paced:
                receipt.add(event)
                if receipt.message is not None:
                    charge(receipt.message)
                yield encode_event(_as_live_event(event))
    except Exception as error:  # noqa: BLE001 - the status is out; an event is the only way left to say it
        log.warning("stream failed", request_id=request_id, **describe(error))
        yield encode_event(error_event(answer_to(error), request_id))


async def _paced(first: Event, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
    """Pass events on, with a ping whenever nothing came for a while; closing it stops the engine's work."""
    event: Event | None = first
    try:
        while event is not None:
            yield event
            coming = asyncio.ensure_future(_next(events))
            try:
                while not (await asyncio.wait({coming}, timeout=PING_S))[0]:
                    yield Ping()
                event = coming.result()
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
    finally:
        await close(events)


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def _as_live_event(event: Event) -> Event:
    return MessageStart(message=as_live(event.message)) if isinstance(event, MessageStart) else event
