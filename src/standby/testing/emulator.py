"""An emulator in this process, and what a test does with it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.client
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from standby.testing.running import Running

if TYPE_CHECKING:
    from anthropic import Anthropic, AsyncAnthropic

API_KEY = "emulator"
PATIENCE_S = 300.0
Rules = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One HTTP request that the emulator got."""

    operation: str
    """`create`, `list`, `retrieve`, `cancel`, `delete`, `results`, `messages`, `count_tokens` or `models`."""
    method: str
    path: str
    at: dt.datetime
    """On the emulator's clock."""
    retry: int
    """Which repetition of the SDK this is, 0 for the first try."""
    simulate: str
    """The header `standby-simulate`."""
    status: int
    """Of the answer, also of one that was lost; 0 if there was none."""
    fault: str
    """The fault that it met, empty if none."""
    batch_id: str
    """Of a create: the batch that it made, or that its first try had made."""
    items: int
    """Of a create: the items of that batch."""


class Emulator:
    """A running emulator. Every method is done when it returns; `RuntimeError` says what the emulator did not take."""

    def __init__(self, url: str, *, script: Sequence[Rules] = (), faults: Sequence[Rules] = ()) -> None:
        """Use the emulator at `url`, in this process or another; `script` and `faults` are set again by `reset`."""
        self.url = url
        """Base URL for SDKs."""
        self.api_key = API_KEY
        """Any key will do."""
        self._script = list(script)
        self._faults = list(faults)
        self._clients: list[Anthropic] = []

    def client(self, **options: Any) -> Anthropic:
        """Make a client of the package `anthropic`; it is closed with the emulator."""
        from anthropic import Anthropic  # noqa: PLC0415 - only whoever asks for it needs the package

        client = Anthropic(**{"base_url": self.url, "api_key": self.api_key, **options})
        self._clients.append(client)
        return client

    def async_client(self, **options: Any) -> AsyncAnthropic:
        """Make an asynchronous client; close it yourself, in the event loop that used it."""
        from anthropic import AsyncAnthropic  # noqa: PLC0415 - see above

        return AsyncAnthropic(**{"base_url": self.url, "api_key": self.api_key, **options})

    @property
    def now(self) -> dt.datetime:
        """What time it is for the emulator."""
        return _moment(self._call("GET", "clock")["now"])

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> dt.datetime:
        """Let time pass; all that is due on the way has happened when this returns. Returns the new time."""
        by = dt.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        answer = self._call("POST", "clock", {"advance_s": by.total_seconds()})
        if not answer["is_settled"]:
            raise RuntimeError("the emulator was still at work after two minutes")
        return _moment(answer["now"])

    def settle(self) -> None:
        """Wait until everything is done that needs no time."""
        self.advance()

    def script(self, *rules: Rules) -> None:
        """Put rules in front of the others: lines such as `doc-*=stop:refusal`, or tables as in a file."""
        self._call("POST", "simulator/script", {"script": list(rules)})

    def fault(self, *faults: Rules) -> None:
        """Put faults in front of the others: lines such as `create=529+times:2`, or tables as in a file."""
        self._call("POST", "simulator/faults", {"faults": list(faults)})

    @property
    def requests(self) -> list[Received]:
        """What arrived since the start or the last `reset`, oldest first."""
        found = self._call("GET", "simulator/requests")["requests"]
        return [Received(at=_moment_us(one.pop("at_us")), **one) for one in found]

    def reset(self) -> None:
        """Delete all batches, forget scripts, faults and requests; the clock stays where it is."""
        self._call("POST", "simulator/reset")
        self.begin()

    def begin(self) -> None:
        """Set the script and the faults of the start."""
        if self._script:
            self.script(*self._script)
        if self._faults:
            self.fault(*self._faults)

    def close(self) -> None:
        """Close the clients that it made."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _call(self, method: str, path: str, body: object = None) -> Any:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE_S)
        headers = {"x-api-key": self.api_key, "content-type": "application/json"}
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, f"{place.path}/standby/v1/{path}", data, headers)
            answer = connection.getresponse()
            found = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(found["error"]["message"])
        return found


class AsyncEmulator:
    """The same for asynchronous tests: what talks to the emulator is awaited."""

    def __init__(self, emulator: Emulator) -> None:
        """Wrap an emulator."""
        self._emulator = emulator
        self._clients: list[AsyncAnthropic] = []
        self.url = emulator.url
        """Base URL for SDKs."""
        self.api_key = emulator.api_key
        """Any key will do."""

    def client(self, **options: Any) -> AsyncAnthropic:
        """Make a client of the package `anthropic`; it is closed with the emulator."""
        client = self._emulator.async_client(**options)
        self._clients.append(client)
        return client

    async def now(self) -> dt.datetime:
        """See `Emulator.now`."""
        return await asyncio.to_thread(lambda: self._emulator.now)

    async def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> dt.datetime:
        """See `Emulator.advance`."""
        by = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
        return await asyncio.to_thread(lambda: self._emulator.advance(**by))

    async def settle(self) -> None:
        """See `Emulator.settle`."""
        await asyncio.to_thread(self._emulator.settle)

    async def script(self, *rules: Rules) -> None:
        """See `Emulator.script`."""
        await asyncio.to_thread(self._emulator.script, *rules)

    async def fault(self, *faults: Rules) -> None:
        """See `Emulator.fault`."""
        await asyncio.to_thread(self._emulator.fault, *faults)

    async def requests(self) -> list[Received]:
        """See `Emulator.requests`."""
        return await asyncio.to_thread(lambda: self._emulator.requests)

    async def reset(self) -> None:
        """See `Emulator.reset`."""
        await asyncio.to_thread(self._emulator.reset)

    async def close(self) -> None:
        """Close the clients that it made."""
        for client in self._clients:
            await client.close()
        self._clients.clear()


@contextlib.contextmanager
def emulator(
    *,
    script: Rules | Sequence[Rules] = (),
    faults: Rules | Sequence[Rules] = (),
    data: Path | None = None,
    **settings: Any,
) -> Iterator[Emulator]:
    """Run an emulator in a thread of this process, on a free port of this machine.

    `settings` are those of the reference with `__` for the dot: `batch__window_s=60`. The data folder is a temporary
    one unless `data` names it. Nothing is left behind at the end: no thread, no file, no signal handler.
    """
    with Running(settings, data=data) as running:
        emulator = Emulator(running.url, script=_several(script), faults=_several(faults))
        try:
            emulator.begin()
            yield emulator
        finally:
            emulator.close()


@contextlib.asynccontextmanager
async def async_emulator(**options: Any) -> AsyncIterator[AsyncEmulator]:
    """Run an emulator for asynchronous tests; the options are those of `emulator`."""
    entered = emulator(**options)
    wrapped = AsyncEmulator(await asyncio.to_thread(entered.__enter__))
    try:
        yield wrapped
    finally:
        await wrapped.close()
        await asyncio.to_thread(entered.__exit__, None, None, None)


def _several(given: Rules | Sequence[Rules]) -> Sequence[Rules]:
    return [given] if isinstance(given, (str, Mapping)) else given


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _moment_us(us: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(us / 1e6, tz=dt.UTC)
