"""A drop-in asynchronous client: calls of `messages.create` are gathered into batches, at half the price.

    client = workload.AsyncBatches()          # was: anthropic.AsyncAnthropic()
    answers = await asyncio.gather(*(client.messages.create(...) for text in texts))

The program stays as it is: each call returns its `Message` or raises what the SDK raises, minutes or hours later. It is
the SDK itself, with a transport of ours below it that answers `POST /v1/messages` and passes everything else on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anthropic
import httpx2
import msgspec

from standby.workload.faults import WorkloadError
from standby.workload.flights import Way
from standby.workload.gatherer import Gatherer
from standby.workload.parts import MOST_ITEMS, Limits
from standby.workload.replies import NotBatched, answer_to
from standby.workload.runner import Pace
from standby.workload.service import MESSAGES

WINDOW_S = 1.0
LONGEST_S = 60.0
CREDENTIALS = ("api_key", "auth_token", "credentials", "config", "profile")
CLIENT = "standby_client"
"""Under this name a request carries the client that made it down to the transport."""


class AsyncBatches(anthropic.AsyncAnthropic):
    """`anthropic.AsyncAnthropic` whose `messages.create` and `messages.parse` go with batches, those of `beta` too.

    Everything else (`models`, `count_tokens`, `messages.batches`) is passed on at once. A call waits as long as
    its batch, or `timeout` seconds if the program sets that. Close it, or use `async with`.
    """

    def __init__(
        self,
        *,
        window: float = WINDOW_S,
        max_window: float = LONGEST_S,
        max_items: int = MOST_ITEMS,
        folder: str | os.PathLike[str] | None = None,
        pace: Pace | None = None,
        http_client: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> None:
        """Take what the SDK's client takes, and what gathering needs.

        Args:
            window: seconds without a new call after which a batch is sent.
            max_window: seconds after its first call when it is sent anyhow.
            max_items: calls at which it is sent at once; the service takes at most 100,000.
            folder: where answers are kept, so that the same program run again pays only for what has none.
            pace: how often to look and how patient to be; its `limits.bytes` bound a batch too.
            http_client: for everything that goes out, as with the SDK.
            options: of `anthropic.AsyncAnthropic`.
        """
        if isinstance(http_client, _Client):
            self._gathering = http_client
        else:
            pace = pace or Pace()
            limits = Limits(items=max_items, bytes=pace.limits.bytes)
            place = Path(folder) if folder is not None else None
            gatherer = Gatherer(window_s=window, longest_s=max_window, limits=limits, pace=pace, folder=place)
            self._gathering = _Client(http_client or anthropic.DefaultAsyncHttpxClient(), gatherer)
        # only the SDK's own class finds profiles and federated identities: let it, and take what it found
        plain = anthropic.AsyncAnthropic(http_client=self._gathering, **options)
        found = {"credentials": plain.credentials, "base_url": plain.base_url} if plain.credentials is not None else {}
        own = {name: value for name, value in options.items() if name not in {"config", "profile"} or not found}
        super().__init__(http_client=self._gathering, **{**own, **found})
        self._credential_headers = plain._credential_headers  # noqa: SLF001 - see above

    def copy(self, **options: Any) -> Self:
        """Make a client with other options, which gathers into the same batches where it may."""
        if self.credentials is not None and not any(options.get(name) for name in CREDENTIALS):
            options["credentials"] = self.credentials
        return super().copy(**options)

    with_options = copy

    async def close(self) -> None:
        """Send what waits at once, and return when every call that is waited for has its answer.

        If that is interrupted, it is as if the program had failed: see `__aexit__`.
        """
        try:
            await self._gathering.gatherer.drain()
        finally:
            await self._gathering.gatherer.abandon()
            await super().close()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Close; if the program failed, wait for nothing.

        Calls that still wait get `Closed`. Batches are canceled, unless `folder` keeps their answers for the next run.
        """
        if exc_type is not None:
            await self._gathering.gatherer.abandon()
        await self.close()

    async def request(self, cast_to: Any, options: Any, **how: Any) -> Any:
        """Send a request, as the SDK does; a call that will be gathered is counted, so that `close` waits for it."""
        is_call = options.method.lower() == "post" and options.url == MESSAGES
        with self._gathering.gatherer.entered() if is_call else contextlib.nullcontext():
            return await super().request(cast_to, options, **how)

    async def _prepare_request(self, request: httpx2.Request) -> None:
        await super()._prepare_request(request)
        request.extensions[CLIENT] = self

    def _calculate_nonstreaming_timeout(self, max_tokens: int, max_nonstreaming_tokens: int | None) -> httpx2.Timeout:
        """Set no limit to `max_tokens`: that of the SDK is for connections that wait, and none does here."""
        del max_tokens, max_nonstreaming_tokens
        return anthropic.DEFAULT_TIMEOUT


class _Client(httpx2.AsyncClient):
    """The SDK's way out: gathers, and passes on to the client that the program brought, or the SDK's usual one."""

    def __init__(self, inner: httpx2.AsyncClient, gatherer: Gatherer) -> None:
        super().__init__(transport=_Transport(inner, gatherer), timeout=inner.timeout)
        self.gatherer = gatherer


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, inner: httpx2.AsyncClient, gatherer: Gatherer) -> None:
        self._inner, self._gatherer = inner, gatherer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        client = request.extensions.pop(CLIENT, None)
        if not isinstance(client, AsyncBatches) or not _is_gathered(request, client):
            return await self._inner.send(request, stream=True)
        params = await request.aread()
        if _asked(params).stream:
            raise NotBatched(
                "a batch cannot stream: leave out stream=True and messages.stream, "
                "or make these calls with anthropic.AsyncAnthropic"
            )
        try:
            outcome = await self._gatherer.answer(client, _way(request, client), params, _timeout_s(request))
        except TimeoutError:
            raise httpx2.ReadTimeout("no answer from a batch within `timeout`", request=request) from None
        except WorkloadError as error:
            raise NotBatched(str(error)) from error
        return answer_to(request, outcome)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Asked(msgspec.Struct):
    stream: bool | None = None


_asked = msgspec.json.Decoder(_Asked).decode


def _is_gathered(request: httpx2.Request, client: anthropic.AsyncAnthropic) -> bool:
    url = request.url
    return request.method == "POST" and url.path == f"{client.base_url.path}v1/messages" and not url.query


def _way(request: httpx2.Request, client: anthropic.AsyncAnthropic) -> Way:
    """Take what decides which calls may go together; other headers of a call cannot go with a batch."""
    headers = request.headers
    secret = "\n".join([headers.get("authorization", ""), headers.get("x-api-key", "")])
    if client.credentials is not None and client.api_key is None and client.auth_token is None:
        secret = f"provider {id(client.credentials)}"  # its tokens change; who they are for does not
    named = {name: headers[name] for name in sorted(headers) if name.startswith("anthropic-")}
    return Way(
        endpoint=str(client.base_url).rstrip("/"),
        credential=hashlib.blake2b(secret.encode()).hexdigest(),
        headers=tuple(named.items()),
    )


def _timeout_s(request: httpx2.Request) -> float | None:
    """Take the program's own timeout; the SDK's usual one is for connections, and a batch takes longer."""
    given: Mapping[str, float | None] = request.extensions.get("timeout") or {}
    return None if given == anthropic.DEFAULT_TIMEOUT.as_dict() else given.get("read")
