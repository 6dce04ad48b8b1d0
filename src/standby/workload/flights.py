"""Calls wait in lanes until they fly: what one batch may carry, and who still waits for it. No clock, no network."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

import anthropic

from standby.workload.names import HASH_BYTES, custom_id, new_tag
from standby.workload.parts import Filling, Limits
from standby.workload.replies import Outcome

LINE = b'{"custom_id":"%b","params":%b}\n'
LINE_BYTES = len(LINE % (custom_id(new_tag(), bytes(HASH_BYTES)).encode(), b""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What calls must have in common to go with one batch: the service, the credentials, version and betas."""

    endpoint: str
    credential: str
    headers: tuple[tuple[str, str], ...]


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One call of the program."""

    id: bytes
    content: bytes
    """Its hash together with its way; equal calls have the same."""
    copy: int
    """Its number among equal ones."""
    params: bytes
    """JSON, as the SDK wrote it."""
    way: Way
    client: anthropic.AsyncAnthropic
    future: asyncio.Future[Outcome]

    @property
    def size(self) -> int:
        """Of its line, in bytes."""
        return LINE_BYTES + len(self.params)

    def line(self, tag: str) -> bytes:
        """Write it as an item of a batch."""
        return LINE % (custom_id(tag, self.id).encode(), self.params)


def content_of(way: Way, params: bytes) -> bytes:
    """Hash what a call asks, and of whom; the credentials are no part of it."""
    text = "\n".join([way.endpoint, *(f"{name}: {value}" for name, value in way.headers), ""])
    return hashlib.blake2b(text.encode() + params, digest_size=HASH_BYTES).digest()


def id_of(content: bytes, copy: int) -> bytes:
    """Name a call."""
    return hashlib.blake2b(content + copy.to_bytes(8), digest_size=HASH_BYTES).digest()


class Copies:
    """Numbers equal calls: each that is under way has the smallest number that no other has."""

    def __init__(self) -> None:
        """Begin with none."""
        self._next: dict[bytes, int] = {}
        self._free: dict[bytes, list[int]] = {}

    def take(self, content: bytes) -> int:
        """Take a number."""
        if free := self._free.get(content):
            return heappop(free)
        number = self._next.get(content, 0)
        self._next[content] = number + 1
        return number

    def give_back(self, content: bytes, number: int) -> None:
        """Free a number: the next equal call takes it, and with it what is under way for it."""
        free = self._free.setdefault(content, [])
        heappush(free, number)
        if len(free) == self._next[content]:
            del self._free[content], self._next[content]


@dataclass(slots=True, kw_only=True)
class Lane:
    """Calls of one way that wait to be sent, oldest first."""

    way: Way
    limits: Limits
    queue: dict[bytes, Call] = field(default_factory=dict)
    bytes: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, call: Call, now: float) -> None:
        """Queue a call."""
        self.first_at = self.first_at if self.queue else now
        self.last_at = now
        self.queue[call.id] = call
        self.bytes += len(call.params)
        if self.is_full:
            self.changed.set()

    def remove(self, call: Call) -> bool:
        """Take a call back, if it was not sent."""
        if self.queue.get(call.id) is not call:
            return False
        del self.queue[call.id]
        self.bytes -= len(call.params)
        return True

    @property
    def is_full(self) -> bool:
        """Whether there is enough for a batch."""
        return len(self.queue) >= self.limits.items or self.bytes >= self.limits.bytes

    def due_at(self, window_s: float, longest_s: float) -> float:
        """Say when to send: after so many seconds without a new call, or so many after the first."""
        return min(self.last_at + window_s, self.first_at + longest_s)

    def take(self) -> list[Call]:
        """Take as many as one batch holds."""
        filling, taken = Filling(self.limits), []
        for call in self.queue.values():
            size = call.size
            if not filling.takes(size):
                break
            filling.add(size)
            taken.append(call)
        for call in taken:
            self.remove(call)
        return taken


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """A batch that was sent, or may have been."""

    number: int
    tag: str
    way: Way
    client: anthropic.AsyncAnthropic
    items: int
    workspace: str
    """Whose key made it, as the service tells; empty if it does not."""
    anchor: tuple[str, str] | None
    left: set[bytes]
    """Calls without an outcome yet."""
    lines: list[bytes] = field(default_factory=list)
    """What was sent, until it is sure that it arrived; empty for a flight of an earlier process."""
    waiting: dict[bytes, Call] = field(default_factory=dict)
    refuted: tuple[str, ...] = ()
    batch_id: str = ""
    is_ours: bool = False
    unknown_since: float | None = None
    """Since when the service does not know the batch, or has no results of it."""
    lingers_until: float = 0.0
    """Until then somebody may come back for a call whose time was over."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def board(self, call: Call) -> None:
        """Let a call wait for its result."""
        self.waiting[call.id] = call

    def leave(self, call: Call, lingers_until: float) -> None:
        """Let a call go that does not wait any more."""
        if self.waiting.get(call.id) is call:
            del self.waiting[call.id]
            self.lingers_until = max(self.lingers_until, lingers_until)
            self.changed.set()

    def settle(self, call: bytes, outcome: Outcome) -> None:
        """Give a call its outcome, whether or not anybody waits for it."""
        self.left.discard(call)
        waiting = self.waiting.pop(call, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(outcome)

    def tell_all(self, outcome: Outcome, *, lingers_until: float) -> None:
        """Give everybody who waits the same outcome; the flight goes on."""
        self.lingers_until = max(self.lingers_until, lingers_until)
        for call in list(self.waiting.values()):
            del self.waiting[call.id]
            if not call.future.done():
                call.future.set_result(outcome)

    def still_waiting(self) -> Iterator[Call]:
        """Walk over those who wait."""
        return (call for call in self.waiting.values() if not call.future.done())
