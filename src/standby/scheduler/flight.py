"""An attempt under way: what it is, where it is, and how far its answer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from standby.records import NO_REUSE, SECOND, Reuse
from standby.scheduler.gates import Place
from standby.scheduler.held import HeldRun, Queued
from standby.scheduler.quota import Token

ENOUGH = 8
"""Tokens after which an answer has a pace of its own."""


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """One attempt; the engine tells it of every arrival of tokens (`engines.base.Watch`)."""

    held: HeldRun
    item: Queued
    place: Place
    cost: int
    """Cost tokens that its batch was charged when it started."""
    token: Token | None = None
    """What was reserved for it of what its workspace may spend."""
    expected: int
    """Tokens that its answer is expected to have."""
    begun_us: int
    first: Callable[[Flight], None]
    """Called at its first token."""
    first_us: int | None = None
    """When its first token was out."""
    out: int = 0
    """Tokens of its answer so far."""
    reuse: Reuse = NO_REUSE
    """What the engine said of the prompt, once the answer is whole."""
    is_sent: bool = False
    """Whether an endpoint has it, rather than the pool while there is no room."""
    is_yielding: bool = False
    """Whether it is being stopped for live traffic."""
    is_stopping: bool = False
    is_over: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        """Name of the endpoint that it was started for."""
        return self.place.endpoint

    @property
    def unread(self) -> int:
        """Tokens of its prompt that the endpoint still has to compute, as estimated; none once a token is out."""
        return 0 if self.out else self.item.want.prompt_tokens - self.item.want.shared

    @property
    def may_yield(self) -> bool:
        """Whether stopping it would help, and did not happen to its item before."""
        return self.is_sent and not self.is_stopping and not self.item.was_yielded

    def sent(self) -> None:
        """Take note that an endpoint has it now."""
        self.is_sent = True

    def tokens(self, count: int) -> None:
        """Take note of tokens that just came."""
        is_first = not self.out
        self.out += count
        if is_first and count:
            self.first(self)

    def prompt(self, tokens: int, reused: int) -> None:
        """Take note of what the engine reused; of several endpoints that were tried the last counts."""
        self.reuse = Reuse(prompt=tokens, reused=reused)

    def remaining_s(self, now_us: int, gap_s: float) -> float:
        """Return how long it will go on at its own pace, at first at that of others: `gap_s` from token to token.

        What is longer than expected is taken as over.
        """
        if self.out >= ENOUGH and self.first_us is not None:
            # however its engine chunks an answer
            gap_s = (now_us - self.first_us) / SECOND / self.out
        return max(0, self.expected - self.out) * gap_s

    def stop(self) -> None:
        """Stop it in the engine, too."""
        self.is_stopping = True
        if self.task is not None:
            self.task.cancel()
