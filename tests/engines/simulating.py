"""What the simulator's tests share: requests, and a clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from standby.emulation.clock import MovableClock
from standby.engines.simulated import Simulated
from standby.records import SECOND, Rules
from standby.wire.messages import CountParams, MessageParams, decode_count_params, decode_params


def ask(text: str = "Hello", **more: Any) -> MessageParams:
    """Make params of a live request."""
    body = {"model": "simulated", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}
    return decode_params(msgspec.json.encode(body), rules=Rules(), batch=False)


async def started(engine: Simulated) -> Simulated:
    """Start an engine."""
    await engine.start()
    return engine


def count(text: str = "Hello", **more: Any) -> CountParams:
    """Make params of a token count."""
    body = {"model": "simulated", "messages": [{"role": "user", "content": text}], **more}
    return decode_count_params(msgspec.json.encode(body), rules=Rules())


class Held(MovableClock):
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        """Stand at a moment of 2001."""
        super().__init__(lambda: 1_000_000_000 * SECOND)
        self.began_us = self()

    @property
    def passed_s(self) -> float:
        """How far it was moved."""
        return self.ahead_us / SECOND


async def finish(clock: Held, *tasks: asyncio.Task[Any], step_s: float = 0.05) -> None:
    """Move the clock until the tasks are done."""
    for _ in range(10_000):
        for _ in range(5):
            await asyncio.sleep(0)
        if all(task.done() for task in tasks):
            return
        clock.advance(int(step_s * SECOND))
    raise AssertionError("the tasks never end")
