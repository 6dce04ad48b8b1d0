"""Server-sent events: ours on the way out, an engine's on the way in (contract 3.5)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from standby.wire.events import Event

MAX_EVENT = 16 * 2**20
"""Bytes that one event of an engine may have; a line that never ends must not fill the memory."""

_encode = msgspec.json.Encoder().encode


def encode_event(event: Event) -> bytes:
    """Write one event: an `event:` line equal to the data's `type`, one `data:` line, a blank line."""
    tag = type(event).__struct_config__.tag
    return b"event: %b\ndata: %b\n\n" % (str(tag).encode(), _encode(event))


class SseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it came: its name (`message` if it had none) and its data lines joined by newlines."""

    name: str
    data: bytes


class SseParser:
    """Reads events from bytes in any pieces; LF, CRLF and CR end a line, comments and unknown fields are dropped."""

    __slots__ = ("_data", "_line", "_name", "_seen", "_size", "_skip_lf")

    def __init__(self) -> None:
        """Begin before the first byte."""
        self._line = bytearray()
        self._data: list[bytes] = []
        self._name = ""
        self._size = 0
        self._skip_lf = False
        self._seen = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes and return the events that they end; `ValueError` if one is larger than 16 MiB."""
        found = self._whole(chunk)
        if found is None:
            found = [event for line in self._lines(chunk) if (event := self._take(line)) is not None]
        return found

    def _whole(self, chunk: bytes) -> list[SseEvent] | None:
        """Read the usual case at once: whole events, each a line of data, behind a line with its name or none."""
        end = len(chunk) - 2
        first = chunk.find(b"\n\n")
        if first < 0 or self._line or self._size or self._skip_lf or end > MAX_EVENT or chunk.find(b"\r") >= 0:
            return None
        if first == end and chunk.startswith(b"data: ") and chunk.find(b"\n") == end:
            self._seen = True
            return [SseEvent(name="message", data=chunk[6:end])]
        return self._blocks(chunk[:end]) if chunk.endswith(b"\n\n") else None

    def _blocks(self, chunk: bytes) -> list[SseEvent] | None:
        found: list[SseEvent] = []
        for block in chunk.split(b"\n\n"):
            name, data = b"message", block
            if block.startswith(b"event: "):
                name, _, data = block[7:].partition(b"\n")
            if not name or not data.startswith(b"data: ") or data.find(b"\n") >= 0:
                return None
            found.append(SseEvent(name=name.decode("utf-8", "replace"), data=data[6:]))
        self._seen = True
        return found

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        start = 1 if self._skip_lf and chunk[:1] == b"\n" else 0
        if chunk:
            self._skip_lf = chunk.endswith(b"\r")
        # splitlines of bytes knows LF, CR and CRLF and nothing else: just what the format says
        for piece in chunk[start:].splitlines(keepends=True):
            line = piece.rstrip(b"\r\n")
            self._grow(len(line))
            self._line += line
            if len(line) < len(piece):
                yield bytes(self._line)
                self._line.clear()

    def _grow(self, count: int) -> None:
        self._size += count
        if self._size > MAX_EVENT:
            raise ValueError(f"an event of the stream is larger than {MAX_EVENT} bytes")

    def _take(self, line: bytes) -> SseEvent | None:
        if not self._seen:
            self._seen = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._finish()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _finish(self) -> SseEvent | None:
        name, data = self._name or "message", self._data
        self._name, self._data, self._size = "", [], 0
        return SseEvent(name=name, data=b"\n".join(data)) if data else None
