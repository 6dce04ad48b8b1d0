"""Which slot a live request goes to, on an engine whose slots keep what they had last. Pure.

Left to itself, llama.cpp gives a request whose beginning no slot has the slot that was not used for longest, and that
is often one in which a group of a batch rests for a moment. So a live request goes where its own conversation was, else
where live requests were before, and takes what a batch left only if nothing else is free. Else the first slots are the
best: a step of llama.cpp reads so many tokens of prompts, slot after slot, and what a batch has in a later one waits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(slots=True)
class _Seat:
    in_flight: int = 0
    is_live: bool | None = None
    """Who had it last; None if nobody did."""
    conversation: bytes = b""
    used: int = 0
    """The turn in which it was last taken."""
    is_read: bool = True
    """Whether the answer began."""


class Seats:
    """The slots of one endpoint, as far as everything that it does comes from here."""

    def __init__(self) -> None:
        """Nobody has a slot."""
        self._seats: dict[int, _Seat] = {}
        self._turns = itertools.count(1)
        self._taken_over: set[int] = set()

    def choose(self, conversation: bytes, slots: int) -> int | None:
        """Return the slot for a live request out of so many; None if all are busy: the engine knows who ends first."""
        idle = [number for number in range(slots) if not self._seat(number).in_flight]
        return min(idle, key=lambda number: self._rank(number, conversation), default=None)

    def sit(self, number: int, *, live: bool, conversation: bytes = b"") -> None:
        """Note that a request takes a slot; it may have to wait for it."""
        seat = self._seat(number)
        if live and seat.is_live is False:
            self._taken_over.add(number)
        elif not live:
            self._taken_over.discard(number)
        seat.in_flight += 1
        seat.is_live, seat.conversation, seat.used, seat.is_read = live, conversation, next(self._turns), False

    def read(self, number: int) -> None:
        """Note that an answer began there."""
        self._seat(number).is_read = True

    def leave(self, number: int) -> None:
        """Note that it is over."""
        self._seat(number).in_flight -= 1

    def busy_live(self) -> frozenset[int]:
        """Return the slots in which live requests are."""
        return frozenset(number for number, seat in self._seats.items() if seat.is_live and seat.in_flight)

    def reading_live(self) -> int:
        """Return the last slot in which the prompt of a live request is being read; -1 if there is none."""
        return max((number for number in self.busy_live() if not self._seat(number).is_read), default=-1)

    def take_taken_over(self) -> frozenset[int]:
        """Return the slots that live requests took from batches since this was last asked."""
        found, self._taken_over = frozenset(self._taken_over), set()
        return found

    def lost(self) -> None:
        """Forget what slots hold: the engine was away."""
        for seat in self._seats.values():
            seat.is_live, seat.conversation, seat.used = None, b"", 0

    def _seat(self, number: int) -> _Seat:
        return self._seats.setdefault(number, _Seat())

    def _rank(self, number: int, conversation: bytes) -> tuple[int, int, int]:
        seat = self._seat(number)
        if seat.is_live and seat.conversation == conversation:
            return (0, -seat.used, 0)
        return ({True: 1, None: 2, False: 3}[seat.is_live], seat.used, number)
