"""Deficit round robin between members: workspaces, the two lanes of a workspace, the batches of a lane. Pure.

Each member has an account of the cost tokens that it was given. Whoever was given least has the next turn, and keeps
it until a quantum is spent, so that the prefix groups of a batch stay together (DLPM: a deficit that outlasts an
item). Estimates are charged when an item starts and corrected when it is settled. Nobody saves up: a new member
starts at the least of those that are served, and one that could not be served is never owed more than a quantum.
"""

from __future__ import annotations

from collections.abc import Collection

NOBODY: frozenset[str] = frozenset()


class Turns:
    """The accounts of some members, and whose turn it is."""

    __slots__ = ("_away", "_current", "_until", "_used", "floor")

    def __init__(self) -> None:
        """Begin with nobody."""
        self.floor = 0.0
        """The least that a member who is served was given; never falls."""
        self._used: dict[str, float] = {}
        self._away: dict[str, float] = {}
        self._current = ""
        self._until = 0.0

    def pick(
        self, members: Collection[str], quantum: float, ahead: Collection[str] = NOBODY, credit: float = 0.0
    ) -> str:
        """Say whose turn it is among `members`, at least one; those in `ahead` are served up to a credit early."""
        current, used = self._current, self._used
        if current in members and used.get(current, 0.0) < self._until:
            limit = self.floor + credit
            if not ahead or current in ahead or all(used.get(member, self.floor) >= limit for member in ahead):
                return current
        return self._next(members, quantum, ahead, credit)

    def stays(self, member: str) -> bool:
        """Whether it is this member's turn, and the turn is not over."""
        return member == self._current and self._used.get(member, 0.0) < self._until

    def used(self, member: str) -> float:
        """Return what a member was given, or where it would start."""
        return self._used.get(member, max(self.floor, self._away.get(member, 0.0)))

    def charge(self, member: str, cost: float) -> None:
        """Book a cost; a negative one gives back what was estimated too high."""
        self._used[member] = self._used.get(member, self.floor) + cost

    def correct(self, member: str, cost: float) -> None:
        """Book a difference to one that may be gone meanwhile."""
        for accounts in (self._used, self._away):
            if member in accounts:
                accounts[member] += cost

    def leave(self, member: str) -> None:
        """Close an account; what was given beyond the others' share stays booked until they have caught up."""
        used = self._used.pop(member, 0.0)
        if member == self._current:
            self._current = ""
        self._away = {name: spent for name, spent in self._away.items() if spent > self.floor}
        if used > self.floor:
            self._away[member] = used

    def __len__(self) -> int:
        """Count the accounts that are open."""
        return len(self._used)

    def _next(self, members: Collection[str], quantum: float, ahead: Collection[str], credit: float) -> str:
        used, owed = self._used, self.floor - quantum
        ranks = []
        for member in members:
            given = used.get(member)
            if given is None:
                given = used[member] = max(self.floor, self._away.pop(member, 0.0))
            elif given < owed:
                given = used[member] = owed
            ranks.append((given - credit if member in ahead else given, member))
        best = min(ranks)[1]
        self.floor = max(self.floor, min(map(used.__getitem__, members)))
        self._current, self._until = best, used[best] + quantum
        return best
