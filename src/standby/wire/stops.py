"""Stop sequences in a stream of text, wherever the pieces are cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Passes text on and holds back what may be the beginning of a stop sequence, until that is decided.

    The sequence that is complete first wins; of two that end together, the longer.
    """

    __slots__ = ("_held", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        """Begin at the start of the answer; no stop sequence may be empty."""
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=1) - 1
        self._held = ""
        self.matched: str | None = None
        """The stop sequence that ended the text; nothing comes out after it."""

    def feed(self, text: str) -> str:
        """Take more text; return what certainly stands before any stop sequence."""
        if self.matched is not None:
            return ""
        self._held += text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            return self._take(at)
        return self._take(len(self._held) - self._undecided())

    def finish(self) -> str:
        """End the text; return what was held back, for no stop sequence came."""
        return "" if self.matched is not None else self._take(len(self._held))

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text

    def _undecided(self) -> int:
        for size in range(min(self._longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
