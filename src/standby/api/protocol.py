"""The HTTP parser's own complaints in the contract's shape: bytes that are no HTTP never reach the application."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from standby.errors import invalid
from standby.ids import random_id
from standby.wire.errors import error_body

_HEAD = (
    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    "request-id: {request_id}\r\nconnection: close\r\n\r\n"
)


class JsonProtocol(HttpToolsProtocol):
    """uvicorn's protocol; pass it as `http=` of `uvicorn.Config`."""

    def send_400_response(self, msg: str) -> None:
        """Answer as every other fault is answered, and hang up."""
        request_id = random_id("req")
        body = error_body(invalid(msg), request_id)
        self.transport.write(_HEAD.format(length=len(body), request_id=request_id).encode("ascii") + body)
        self.transport.close()
