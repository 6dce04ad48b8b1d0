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

    async def take(self, *, live: bool) -> None:
        """Wait for a slot and occupy it; a cancelled wait occupies nothing."""
        if self._live + self._batch < self._size:
            self._occupy(live=live)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[live].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(turn, live=live)
            raise

    def give(self, *, live: bool) -> None:
        """Free a slot and hand it to the one who waits longest, live first."""
        if live:
            self._live -= 1
        else:
            self._batch -= 1
        for kind in (True, False):
            if self._waiting[kind]:
                self._occupy(live=kind)
                self._waiting[kind].popleft().set_result(None)
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
        else:
            # the slot was handed over in the same turn of the loop in which the wait was cancelled
            self.give(live=live)
