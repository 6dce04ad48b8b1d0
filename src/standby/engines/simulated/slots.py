"""Slots of an engine: whoever finds none waits, live requests in front of batch requests, each kind in its order."""

from __future__ import annotations

import asyncio
from collections import deque

from standby.records import Load


class Slots:
    """`size` slots. `take` and `give` come in pairs, with the same `live`."""

    def __init__(self, size: int) -> None:
        """Begin with all slots free."""
        self._size = size
        self._live = 0
        self._batch = 0
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}

    @property
    def is_full(self) -> bool:
        """Whether the next one would have to wait."""
        return self._live + self._batch >= self._size

    async def take(self, *, live: bool, over: asyncio.Future[None] | None = None) -> None:
        """Wait for a slot and occupy it; a cancelled wait occupies nothing.

        Raises `TimeoutError` once `over` is done and there was no slot yet.
        """
        if not self.is_full:
            self._occupy(live=live)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[live].append(turn)
        if over is not None:
            over.add_done_callback(lambda _: None if turn.done() else turn.set_exception(TimeoutError()))
        try:
            await turn
        except BaseException:
            self._leave(turn, live=live)
            raise

    def give(self, *, live: bool) -> None:
        """Free a slot and hand it to the one who waits longest, live first."""
        if live:
            self._live -= 1
        else:
            self._batch -= 1
        for kind in (True, False):
            while self._waiting[kind]:
                turn = self._waiting[kind].popleft()
                if not turn.done():
                    self._occupy(live=kind)
                    turn.set_result(None)
                    return

    def load(self) -> Load:
        """Count who works and who waits."""
        waiting = len(self._waiting[True]) + len(self._waiting[False])
        return Load(live=self._live, batch=self._batch, slots=self._size, waiting=waiting)

    def _occupy(self, *, live: bool) -> None:
        if live:
            self._live += 1
        else:
            self._batch += 1

    def _leave(self, turn: asyncio.Future[None], *, live: bool) -> None:
        if turn in self._waiting[live]:
            self._waiting[live].remove(turn)
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            # the slot was handed over in the same turn of the loop in which the wait was cancelled
            self.give(live=live)
