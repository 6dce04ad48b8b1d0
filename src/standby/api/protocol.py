"""The HTTP parser's own complaints in the contract's shape: bytes that are no HTTP never reach the application."""

from __future__ import annotations

import asyncio
import socket
import struct

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from standby.errors import invalid
from standby.ids import random_id
from standby.wire.errors import error_body

_HEAD = (
    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    "request-id: {request_id}\r\nconnection: close\r\n\r\n"
)


LINE = "standby.line"
"""The extension of a scope that has the connection, below `line`."""
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


class Line:
    """The connection that a request came over."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """Keep the transport."""
        self._transport = transport

    def hang_up(self, *, is_reset: bool) -> None:
        """End it: what was sent still arrives, or with `is_reset` nothing does and the client sees a reset."""
        if not is_reset:
            self._transport.close()
            return
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()


class JsonProtocol(HttpToolsProtocol):
    """uvicorn's protocol; pass it as `http=` of `uvicorn.Config`."""

    def on_message_begin(self) -> None:
        """Begin a request; its scope tells which connection it came over."""
        super().on_message_begin()
        self.scope["extensions"] = {LINE: {"line": Line(self.transport)}}

    def send_400_response(self, msg: str) -> None:
        """Answer as every other fault is answered, and hang up."""
        request_id = random_id("req")
        body = error_body(invalid(msg), request_id)
        self.transport.write(_HEAD.format(length=len(body), request_id=request_id).encode("ascii") + body)
        self.transport.close()
