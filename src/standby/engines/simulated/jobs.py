"""A request while the simulator's time works on it, and what every way of passing time must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from standby.engines.base import Watch
from standby.engines.simulated.chains import Chain
from standby.errors import EngineError, Failure
from standby.records import Load


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request: what it needs, and how far it is."""

    live: bool
    deadline_us: int | None
    prompt_tokens: int
    answer_tokens: int
    chain: Chain = ()
    """The prompt as a prefix cache sees it."""
    cached: int = 0
    """Tokens of the prompt that were not computed again; known once it has a seat."""
    started_us: int = 0
    """When it got its seat."""
    slot: int | None = None
    """The slot that it asks for, of an engine that keeps prompts by slot."""
    watch: Watch | None = None
    """Told of tokens as they come out."""
    told: int = 0
    """How many it was told of."""

    def tell(self, tokens: int) -> None:
        """Let the watch know that so many tokens are out by now."""
        if self.watch is not None and tokens > self.told:
            self.watch.tokens(tokens - self.told)
            self.told = tokens

    def tell_prompt(self) -> None:
        """Let the watch know what was reused, once the answer is whole."""
        if self.watch is not None:
            self.watch.prompt(self.prompt_tokens, self.cached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What an engine's metrics would truly say."""

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    preempted: int = 0
    """Requests that lost their seat for a while."""


class Pace(Protocol):
    """How time passes for requests that share an engine."""

    async def enter(self, job: Job) -> None:
        """Wait for a seat; raises `EngineError`. Leave it again unless this raised."""
        ...

    async def reach(self, job: Job, tokens: int) -> None:
        """Wait until the prompt was read and this many tokens of the answer are out; raises `EngineError`."""
        ...

    def leave(self, job: Job) -> None:
        """Give the seat back, whether the answer is complete or not."""
        ...

    def load(self) -> Load:
        """Count who has a seat and who waits."""
        ...

    def gauges(self) -> Gauges:
        """Say what the engine's metrics would."""
        ...


def late() -> EngineError:
    """Return the error of a request whose time is over."""
    return EngineError(Failure.TIMEOUT, "The time of the request was over before the answer was complete.")
