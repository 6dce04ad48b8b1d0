"""Tokens to text: whole UTF-8 characters only, and stop strings found wherever they fall. Pure."""

from __future__ import annotations

import codecs


class Writer:
    """Turns the bytes of tokens into text and looks for stop strings in it.

    Text that could be the beginning of a stop string, and bytes of an unfinished character, are held
    back until it is decided. A pause or a chunk border between two tokens changes nothing.
    """

    __slots__ = ("_decoder", "_held", "_stops", "matched")

    def __init__(self, stops: tuple[str, ...]) -> None:
        """Begin at the first token of the answer."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text; after it nothing more comes out."""

    def feed(self, data: bytes) -> str:
        """Take the bytes of one token; return the text that is now certain."""
        return self._take(self._decoder.decode(data))

    def finish(self) -> str:
        """End the text; return what was held back."""
        text = self._take(self._decoder.decode(b"", True))  # noqa: FBT003 - `final` is positional only
        rest, self._held = self._held, ""
        return text + rest

    def _take(self, text: str) -> str:
        if self.matched is not None or not text:
            return ""
        self._held += text
        found = first_stop(self._held, self._stops)
        if found is not None:
            start, self.matched = found
            certain, self._held = self._held[:start], ""
            return certain
        keep = undecided(self._held, self._stops)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain


def first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Find the stop string that is complete first; of two that end together the longer. Returns (start, stop)."""
    found = [(start + len(stop), start, stop) for stop in stops if (start := text.find(stop)) >= 0]
    if not found:
        return None
    _, start, stop = min(found)
    return start, stop


def undecided(text: str, stops: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        tail = text[-size:]
        if any(stop.startswith(tail) for stop in stops):
            return size
    return 0
