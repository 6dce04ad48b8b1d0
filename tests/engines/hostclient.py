"""A small client of the engine host's own words, for what the engine contract does not show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from standby.wire.sse import SseParser

LONG_TEXT = "Tell a long story about a lighthouse keeper. "


class HostClient:
    """One client of one host."""

    def __init__(self, uds: str) -> None:
        """Keep the socket's path."""
        self._uds = uds

    async def __aenter__(self) -> Self:
        """Open the pool."""
        self._session = aiohttp.ClientSession("http://host", connector=aiohttp.UnixConnector(self._uds, limit=0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self._session.close()

    async def stream(self, **body: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the chunks of a streamed answer."""
        parser = SseParser()
        async with self._session.post("/v1/chat/completions", data=encoded(stream=True, **body)) as response:
            assert response.status == 200, await response.text()
            async for data in response.content.iter_any():
                for event in parser.feed(data):
                    if event.data != b"[DONE]":
                        yield msgspec.json.decode(event.data)

    async def ask(self, **body: Any) -> dict[str, Any]:
        """Return the whole answer, or the error's body."""
        async with self._session.post("/v1/chat/completions", data=encoded(**body)) as response:
            found: dict[str, Any] = {"status": response.status, **msgspec.json.decode(await response.read())}
            return found

    async def settled(self, **body: Any) -> dict[str, Any]:
        """Return what is answered from now on: the answer to the second of two such requests.

        The first one reads its prompt, later ones find most of it in the cache. What is computed in another shape may
        differ in its last bit, and where two tokens are as likely as each other, in its text (seen on one processor).
        """
        await self.ask(**body)
        await self.wait_idle()
        return await self.ask(**body)

    async def count(self, text: str) -> int:
        """Count the tokens of one user message."""
        body = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
        async with self._session.post("/count_tokens", data=body) as response:
            return int(msgspec.json.decode(await response.read())["tokens"])

    async def metric(self, name: str) -> float:
        """Read one number, such as `standby_host_sequences{class="live",state="running"}`."""
        async with self._session.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1])

    async def wait_idle(self, *, bound_s: float = 60) -> None:
        """Wait until the host has nothing to do."""
        async with asyncio.timeout(bound_s):
            while await self.busy():  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(0.01)

    async def busy(self) -> float:
        """Count the sequences that it has."""
        states = [(name, state) for name in ("live", "batch") for state in ("running", "waiting", "paused")]
        return sum([await self.metric(f'standby_host_sequences{{class="{n}",state="{s}"}}') for n, s in states])


def encoded(text: str = "Say hi.", **body: Any) -> bytes:
    """Write a body: greedy, one user message."""
    return msgspec.json.encode({"messages": [{"role": "user", "content": text}], "temperature": 0, **body})


def text_of(chunks: list[dict[str, Any]]) -> str:
    """Join the text of chunks."""
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def ending(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the choice that ends the answer."""
    found: dict[str, Any] = next(c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["finish_reason"])
    return found
