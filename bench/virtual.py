"""An event loop whose time is virtual: it jumps to the next timer when nothing else is left to do.

A whole house (store, blobs, worker, pool, simulator) runs on it as fast as the processor can, and the same seed gives
the same trace: work for threads is done at once, in the order in which it was asked for.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar
from unittest import mock

import obstore

T = TypeVar("T")
START_US = 1_800_000_000_000_000
"""Microseconds since 1970 at the beginning."""


class Stuck(Exception):
    """Everybody waits and nothing will ever happen."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for one process's own timers; sockets and child processes would be late by whole hours."""

    def __init__(self) -> None:
        """Begin at second 0."""
        self.now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now_s

    def now_us(self) -> int:
        """Return it as microseconds since 1970, for a clock."""
        return START_US + round(self.now_s * 1e6)

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002 - no thread is needed
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """Do the work now."""
        done = self.create_future()
        try:
            done.set_result(contextvars.copy_context().run(func, *args))
        except Exception as error:  # noqa: BLE001 - as a thread would hand it over
            done.set_exception(error)
        return done


class _Jumping(selectors.SelectSelector):
    """Never waits: the loop's time jumps instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck("nothing is scheduled, and nobody will wake anybody")
            self._loop.now_s += max(0.0, timeout)
        return ready


async def _read(store: Any, path: str, *, start: int, end: int) -> Any:
    return obstore.get_range(store, path, start=start, end=end)


async def _read_some(store: Any, path: str, *, starts: Sequence[int], ends: Sequence[int]) -> Any:
    return obstore.get_ranges(store, path, starts=starts, ends=ends)


async def _head(store: Any, path: str) -> Any:
    return obstore.head(store, path)


def run_virtually(work: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a virtual loop of its own.

    obstore has threads of its own, for which time would not stand still: it reads at once, too.
    """
    loop = VirtualLoop()
    with mock.patch.multiple(obstore, get_range_async=_read, get_ranges_async=_read_some, head_async=_head):
        try:
            return loop.run_until_complete(work(loop))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
