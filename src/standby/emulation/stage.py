"""Everything that a test can turn, in one place: the clock, the script, the faults, and what arrived."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from standby.emulation.clock import MovableClock
from standby.emulation.faults import Faults, faults_of
from standby.emulation.script import Script, read_script, rules_of
from standby.errors import ScriptError

MOST_ARRIVALS = 10_000
EXACT_STEPS = 100
COARSE_STEPS = 100


@dataclass(slots=True, kw_only=True)
class Arrival:
    """One HTTP request to the API, as it arrived and how it was answered."""

    operation: str
    """`create`, `results` and so on; empty for anything else."""
    method: str
    path: str
    at_us: int
    retry: int
    """Which repetition of the SDK this is (`x-stainless-retry-count`), 0 for the first try."""
    simulate: str
    """The header `standby-simulate`."""
    status: int = 0
    """0 while it runs, or if no answer left."""
    fault: str = ""
    """The fault that it met."""
    batch_id: str = ""
    """Of a create: the batch that it made, or that its first try had made."""
    items: int = 0
    """Of a create: the items of that batch."""


class Actor(Protocol):
    """A simulator, as the stage sees it."""

    def metrics_text(self) -> str:
        """Write what it tells of itself."""
        ...

    def forget(self) -> None:
        """Forget the requests that it saw."""
        ...


@dataclass(slots=True, kw_only=True)
class Stage:
    """What `server` shares between the simulator, the API and `standby.testing`."""

    clock: MovableClock = field(default_factory=MovableClock)
    script: Script = field(default_factory=Script)
    faults: Faults = field(default_factory=Faults)
    arrivals: deque[Arrival] = field(default_factory=lambda: deque(maxlen=MOST_ARRIVALS))
    settle: Callable[[], Awaitable[bool]] | None = None
    """Waits until nothing more happens before the clock moves or somebody asks; False if that took too long."""
    hold: Callable[[int], Awaitable[None]] | None = None
    """Makes what must not run out last until the moment to which the clock is about to be moved."""
    empty: Callable[[], Awaitable[None]] | None = None
    """Ends and deletes every batch."""
    actors: list[Actor] = field(default_factory=list)
    """The simulators."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Who asked for time first has it pass first."""

    async def advance(self, by_us: int) -> bool:
        """Let time pass: all that is due on the way happens, in its order, before this returns.

        Goes from one moment at which something is due to the next; when there are very many, in larger steps. False if
        the server had not come to rest in the end.
        """
        async with self._turn:
            return await self._advance(by_us)

    async def _advance(self, by_us: int) -> bool:
        is_settled = await self._settled()
        end_us = self.clock() + by_us
        for step in range(EXACT_STEPS + COARSE_STEPS):
            due_us = self.clock.next_us
            if not is_settled or due_us is None or due_us >= end_us:
                break
            least_us = 0 if step < EXACT_STEPS else (end_us - self.clock()) // COARSE_STEPS
            await self._move_to(min(end_us, max(due_us, self.clock() + least_us)))
            is_settled = await self._settled()
        await self._move_to(end_us)
        return is_settled and await self._settled()

    async def reset(self) -> None:
        """Forget what was set and what arrived, and delete every batch; the clock stays ahead."""
        self.script.clear()
        self.faults.clear()
        if self.empty is not None:
            await self.empty()
        for actor in self.actors:
            actor.forget()
        self.arrivals.clear()

    async def _move_to(self, at_us: int) -> None:
        if self.hold is not None:
            await self.hold(at_us)
        self.clock.advance_to(at_us)

    async def _settled(self) -> bool:
        return self.settle is None or await self.settle()

    def metrics(self) -> str:
        """Write what the simulators tell of themselves."""
        return "".join(actor.metrics_text() for actor in self.actors)

    def seen(self) -> list[dict[str, Any]]:
        """List what arrived, oldest first; at most the last 10,000."""
        return [asdict(arrival) for arrival in self.arrivals]


def build_stage(given: str) -> Stage:
    """Set the stage with a script of one line, or the rules and faults of a TOML file, known by its `.toml`.

    `ScriptError` says what is wrong.
    """
    return _stage_of_file(given) if given.endswith(".toml") else Stage(script=Script(rules_of(given)))


def _stage_of_file(file: str) -> Stage:
    document = read_script(Path(file))
    try:
        rules, faults = rules_of(document.get("rule", [])), faults_of(document.get("fault", []))
    except ScriptError as error:
        raise ScriptError(f"{file}: {error}") from None
    return Stage(script=Script(rules), faults=Faults(faults))
