"""A source of chat answers that costs next to nothing: `python -m bench.chat_source`; it prints its port.

It says what the embedded engine says, chunk by chunk, and each answer grows by one chunk a tick, as those of an engine
do that steps all its sequences together. So what its clients spend is their own, and the engine's threads take none.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterator
from typing import ClassVar

import msgspec
import uvloop

TICK_S = 0.004
MODEL = "source"
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LISTED = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "standby", "slots": 64}],
}


def pieces(tokens: int, *, prompt: int = 40) -> list[bytes]:
    """Return an answer as chunks of the body."""
    head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1700000000, "model": MODEL}

    def usage(output: int) -> dict[str, object]:
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": 16},
        }

    def body(output: int) -> dict[str, object]:
        delta = {"role": "assistant", "content": " word"} if output == 1 else {"content": " word"}
        choice: dict[str, object] = {"index": 0, "delta": delta, "finish_reason": None}
        if output == tokens:
            choice |= {"finish_reason": "length", "stop_reason": None}
        return {**head, "choices": [choice], "usage": usage(output)}

    bodies = [*map(body, range(1, tokens + 1)), {**head, "choices": [], "usage": usage(tokens)}]
    events = [*(b"data: %b\n\n" % msgspec.json.encode(one) for one in bodies), b"data: [DONE]\n\n"]
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in events]


class Source(asyncio.Protocol):
    """One connection."""

    answering: ClassVar[dict[Source, Iterator[bytes]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport
        self._received = b""

    def connection_lost(self, _: Exception | None) -> None:
        """Answer no longer."""
        self.answering.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Take a request, which comes alone: nobody sends the next before its answer is over."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
        if len(body) < length:
            return
        self._received = b""
        if b"/chat/completions" in head.partition(b"\r\n")[0]:
            tokens = msgspec.json.decode(body)["max_tokens"]
            self.answering[self] = itertools.chain([HEAD], pieces(tokens), [b"0\r\n\r\n"])
            return
        listed = msgspec.json.encode(LISTED)
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(listed) + listed
        )

    def go_on(self) -> None:
        """Write the next piece."""
        piece = next(self.answering[self], None)
        if piece is None:
            del self.answering[self]
        else:
            self._write(piece)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


async def main() -> None:
    """Listen until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Source, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = loop.run_in_executor(None, sys.stdin.read)
    while not ended.done():
        await asyncio.sleep(TICK_S)
        for one in list(Source.answering):
            one.go_on()


if __name__ == "__main__":
    uvloop.run(main())
