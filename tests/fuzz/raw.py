"""Bytes on a socket, as no HTTP library would send them, and the answer that comes back."""

from __future__ import annotations

import gzip
import http.client
import io
import socket
from collections.abc import Iterable, Sequence

from tests.harness import HEADERS, Answer, ServerProcess

CREATE = "/v1/messages/batches"


def head(*lines: str, path: str = CREATE, method: str = "POST") -> bytes:
    """Write the head of a request; `lines` are further header lines."""
    known = [f"{name}: {value}" for name, value in HEADERS.items()]
    first = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", "connection: close"]
    return "\r\n".join([*first, *known, *lines, "", ""]).encode()


def chunked(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Frame pieces for `transfer-encoding: chunked`."""
    for piece in pieces:
        if piece:
            yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    yield b"0\r\n\r\n"


def exchange(server: ServerProcess, pieces: Iterable[bytes], *, timeout: float = 60.0) -> Answer | None:
    """Send pieces one by one, each in a segment of its own, and read the answer; None if the server hangs up.

    A server may answer and close before everything is sent: the answer is read all the same.
    """
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return receive(connection)


def break_off(server: ServerProcess, pieces: Sequence[bytes]) -> None:
    """Send pieces and hang up without waiting for anything."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)


def receive(connection: socket.socket) -> Answer | None:
    """Read one answer to its end."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ConnectionResetError):
        return None
    finally:
        response.close()
    return Answer(
        status=response.status,
        headers={name.lower(): value for name, value in response.getheaders()},
        body=body,
    )


def gzip_of_zeros(size: int) -> bytes:
    """Pack `size` zero bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as out:
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            out.write(block)
    return packed.getvalue()
