"""Tokens to text: whole UTF-8 characters only, and nothing after a stop string. Pure."""

from __future__ import annotations

import codecs

from standby.wire.stops import StopFinder


class Writer:
    """Turns the bytes of tokens into text and looks for stop strings in it.

    Bytes of an unfinished character, and text that could begin a stop string, are held back until it is
    decided. A pause between two tokens changes nothing.
    """

    __slots__ = ("_decoder", "_finder")

    def __init__(self, stops: tuple[str, ...]) -> None:
        """Begin at the first token of the answer."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._finder = StopFinder(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text."""
        return self._finder.matched

    def feed(self, data: bytes) -> str:
        """Take the bytes of one token; return the text that is now certain."""
        return self._finder.feed(self._decoder.decode(data))

    def finish(self) -> str:
        """End the text; return what was held back."""
        return self._finder.feed(self._decoder.decode(b"", True)) + self._finder.finish()
