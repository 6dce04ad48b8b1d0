"""The verbs of `service.py` for asynchronous programs, on a client of theirs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence

import anthropic
import httpx2

from standby.workload.binding import KINDS
from standby.workload.faults import LocalState, Refused, Unavailable
from standby.workload.parts import COMMA, HEAD, TAIL
from standby.workload.service import (
    BATCHES,
    CREATE_TIMEOUT_S,
    PAGE,
    Seen,
    after_of,
    fault_of_create,
    results_url,
    seen_of,
    translated,
)

TIMEOUT_S = 60.0
DOWNLOAD_BYTES = 256 * 1024
PIECE = 1 << 20


class Postbox:
    """Verbs on the service; each raises `WorkloadError`s only."""

    def __init__(self, client: anthropic.AsyncAnthropic, headers: Mapping[str, str], *, workspace: str = "") -> None:
        """Take a client of the SDK, and the headers that decide how a batch is read: version and betas.

        `workspace` is where the batch is known; answers from another one are `LocalState`.
        """
        self._client, self._headers = client, dict(headers)
        self.workspace = workspace
        """Who answered; empty before the first answer, and with a service that does not tell."""

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return str(self._client.base_url).rstrip("/")

    async def create(self, lines: Sequence[bytes], *, key: str) -> Seen:
        """Make a batch of items, one a line; `Uncertain` if nobody knows whether it was made."""
        size = len(HEAD) + sum(map(len, lines)) + len(COMMA) * (len(lines) - 1) + len(TAIL)
        try:
            answer = await self._client.post(
                BATCHES,
                content=_body(lines),
                cast_to=httpx2.Response,
                options={
                    "headers": {**self._headers, "Idempotency-Key": key, "Content-Length": str(size)},
                    "timeout": CREATE_TIMEOUT_S,
                    "max_retries": 0,
                },
            )
            return seen_of(answer.json(), after_s=after_of(answer))
        except (anthropic.AnthropicError, ValueError, KeyError) as error:
            raise fault_of_create(error, self.endpoint) from error

    async def newest(self) -> Seen | None:
        """Find the newest batch of the workspace."""
        return next(iter(await self._page(limit=1)), None)

    async def newer_than(self, anchor: tuple[str, str] | None) -> list[Seen]:
        """List the batches that were made after the anchor (id and time), newest first."""
        found: list[Seen] = []
        query: dict[str, object] = {"limit": PAGE}
        while True:
            page = await self._page(**query)
            for batch in page:
                if anchor is not None and (batch.id == anchor[0] or batch.created_at < anchor[1]):
                    return found
                found.append(batch)
            if len(page) < PAGE:
                return found
            query["after_id"] = page[-1].id

    async def retrieve(self, batch_id: str) -> Seen | None:
        """Look at a batch; None if the service does not know it."""
        try:
            answer = await self._get(f"{BATCHES}/{batch_id}")
        except Refused as error:
            if isinstance(error.__cause__, anthropic.NotFoundError):
                return None
            raise
        return seen_of(answer.json(), after_s=after_of(answer))

    async def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch; one that has ended stays as it is."""
        with self._heeding(), contextlib.suppress(anthropic.NotFoundError, anthropic.BadRequestError):
            await self._client.post(
                f"{BATCHES}/{batch_id}/cancel",
                cast_to=httpx2.Response,
                options={"headers": self._headers, "timeout": TIMEOUT_S},
            )

    async def results(self, batch: Seen) -> AsyncGenerator[bytes, None]:
        """Walk over the results of a batch, line by line, without the line ends; `Unavailable` if it breaks off."""
        with self._heeding():
            answer: httpx2.Response = await self._client.get(
                results_url(batch, self.endpoint),
                cast_to=httpx2.Response,
                options={"headers": {**self._headers, "Accept": "application/binary"}, "timeout": TIMEOUT_S},
                stream=True,
            )
            try:
                async for line in _lines(answer.aiter_bytes(DOWNLOAD_BYTES)):
                    yield line
            finally:
                await answer.aclose()

    async def _page(self, **query: object) -> list[Seen]:
        answer = await self._get(BATCHES, **query)
        return [seen_of(one) for one in answer.json()["data"]]

    async def _get(self, path: str, **query: object) -> httpx2.Response:
        with self._heeding():
            answer = await self._client.get(
                path,
                cast_to=httpx2.Response,
                options={"headers": self._headers, "timeout": TIMEOUT_S, "params": query},
            )
        self._heed(answer.headers)
        return answer

    @contextlib.contextmanager
    def _heeding(self) -> Iterator[None]:
        """Turn what the SDK raises into ours; that a batch is not known is believed only of its own workspace."""
        try:
            with _translating():
                yield
        except Refused as error:
            if isinstance(error.__cause__, anthropic.APIStatusError):
                self._heed(error.__cause__.response.headers)
            raise

    def _heed(self, headers: Mapping[str, str]) -> None:
        heard = headers.get(KINDS["workspace"], "")
        if heard and self.workspace and heard != self.workspace:
            raise LocalState(
                f"calls of an earlier run are with batches of workspace {self.workspace}, and this key belongs to "
                f"{heard}: go on with a key of that workspace, or with another folder"
            )
        self.workspace = self.workspace or heard


async def _body(lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Write a body in pieces of a megabyte, so that it is never whole in memory a second time."""
    piece = bytearray(HEAD)
    for number, line in enumerate(lines):
        piece += COMMA + line if number else line
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + TAIL)


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut pieces into lines. What stands behind the last line end is a line too; if it was cut, it cannot be read."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    """Turn what the SDK and its connection raise into ours."""
    try:
        yield
    except anthropic.APIStatusError as error:
        raise translated(error) from error
    except (anthropic.APIConnectionError, httpx2.TransportError, httpx2.StreamError) as error:
        raise Unavailable(f"the connection to the service failed ({type(error).__name__})") from error
