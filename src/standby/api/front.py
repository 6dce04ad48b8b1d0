"""The front: every answer leaves through here with its request id, every error as JSON, every call in the log."""

from __future__ import annotations

import time
from http import HTTPStatus

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from standby.api.auth import Keyring
from standby.api.bodies import Incoming
from standby.api.call import Call, attach
from standby.api.faults import answer_to, describe, is_foreseen
from standby.api.metrics import Metrics
from standby.api.replies import error_reply
from standby.errors import ApiError, LimitReached, StandbyError
from standby.ids import random_id

CLIENT_LEFT = 499
"""What the log and the metrics call an answer whose client did not wait for it."""
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})

QUIET = frozenset({"/health", "/ready", "/metrics"})
"""Asked many times a minute by machines: logged only at `debug`."""

log = structlog.get_logger("standby.access")


class Front:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._keyring = keyring
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; start-up and shutdown pass through, WebSockets are declined."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(request_id=random_id("req"))
        attach(scope, call)
        answer = _Answer(send, call, organization=await self._organization(), is_head=scope["method"] == "HEAD")
        incoming = Incoming(receive, is_asked_for=b"expect" in dict(scope["headers"]))
        began = time.perf_counter()
        try:
            await self._app(scope, incoming, answer)
        except ClientDisconnect:
            answer.status = CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - whatever happens, the client gets an answer it understands
            await self._fail(error, call, answer, scope, incoming)
        finally:
            self._note(scope, call, answer, time.perf_counter() - began)

    async def _fail(self, error: Exception, call: Call, answer: _Answer, scope: Scope, incoming: Incoming) -> None:
        fault = answer_to(error)
        if isinstance(fault, LimitReached):
            self._metrics.count_refusal(fault.limit)
        if fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            write = log.warning if is_foreseen(error) else log.error
            write("request failed", request_id=call.request_id, route=call.route, **describe(error))
        if answer.status:
            # The status is out already: leaving the answer unfinished is the only honest sign left.
            answer.is_cut = True
            return
        if call.is_stored and fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            fault.headers["x-should-retry"] = "false"
        await incoming.discard()
        await error_reply(fault, call.request_id)(scope, incoming, answer)

    async def _organization(self) -> str | None:
        try:
            return await self._keyring.organization()
        except StandbyError:
            return None  # the store is in trouble; the answer itself will say so

    def _note(self, scope: Scope, call: Call, answer: _Answer, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = answer.status or CLIENT_LEFT  # cancelled from outside, before anything was sent
        self._metrics.count_request(route=call.route, method=method, status=status, seconds=seconds)
        write = log.debug if scope["path"] in QUIET else log.info
        write(
            "request",
            method=method,
            route=call.route,
            status=status,
            ms=round(seconds * 1000, 2),
            bytes=answer.sent,
            request_id=call.request_id,
            workspace=call.workspace_id,
            **({"is_cut": True} if answer.is_cut else {}),
        )


class _Answer:
    """The way out: adds the headers of every answer, drops the body of a HEAD, remembers what was sent."""

    def __init__(self, send: Send, call: Call, *, organization: str | None, is_head: bool) -> None:
        self._send = send
        self._call = call
        self._organization = organization
        self._is_head = is_head
        self.status = 0
        self.sent = 0
        self.is_cut = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(MutableHeaders(raw=message["headers"]))
        elif self._is_head:
            message = {**message, "body": b""}
        self.sent += len(message.get("body", b""))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["request-id"] = self._call.request_id
        if self._organization is not None:
            headers["anthropic-organization-id"] = self._organization
        if self._call.workspace_id is not None:
            headers["anthropic-workspace-id"] = self._call.workspace_id
        for name, value in self._call.headers.items():
            headers[name] = value


async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - the shape of ASGI
    """Answer for a path that does not exist."""
    raise ApiError(404, "not_found_error", "Not found")
