"""Request bodies in pieces: decoded as they arrive, and refused as soon as they are too large (contract 1.1, 1.3)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from standby.errors import ApiError

STEP = 256 * 1024
"""Bytes decoded at once: what a bomb can make us hold beyond the limit."""


HEADER = 2
"""Bytes of a zlib header."""


class _Decoder(Protocol):
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class Inflate:
    """Decodes one body: `feed` every chunk, then `finish`; `ApiError` 413 above `max_bytes` decoded bytes.

    `encoding` is the `Content-Encoding` header: none, `identity`, `gzip`, `x-gzip` or `deflate` (with or without
    the zlib wrapper); anything else is refused at once.
    """

    __slots__ = ("_decoder", "_encoding", "_head", "_is_plain", "_max_bytes", "_size")

    def __init__(self, encoding: str | None, max_bytes: int) -> None:
        """Take the header and the limit; 400 for an encoding that is not known."""
        self._encoding = (encoding or "identity").strip().lower() or "identity"
        if self._encoding not in {"identity", "gzip", "x-gzip", "deflate"}:
            raise ApiError(
                400,
                "invalid_request_error",
                "content-encoding: must be `gzip`, `deflate` or `identity`",
                code="request_body_encoding_unsupported",
            )
        self._is_plain = self._encoding == "identity"
        self._max_bytes = max_bytes
        self._size = 0
        self._decoder: _Decoder | None = None
        self._head = b""

    def feed(self, chunk: bytes) -> bytes:
        """Decode the next piece, whole; it can be 1,000 times as large as `chunk` (`pieces` is for that)."""
        return b"".join(self.pieces(chunk))

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Decode the next piece in parts of at most 256 KiB, so that little is held at any time."""
        if not chunk:
            return
        if self._is_plain:
            self._count(len(chunk))
            yield chunk
        elif self._decoder is not None:
            yield from self._run(self._decoder, chunk)
        else:
            self._head += chunk
            if len(self._head) >= HEADER:
                head, self._head = self._head, b""
                yield from self._run(self._begin(head), head)

    def finish(self) -> bytes:
        """Say that the body is over; 400 if it breaks off. Returns what was held back."""
        if self._is_plain or (self._decoder is None and not self._head):
            return b""
        rest = b"".join(self._run(self._begin(self._head), self._head)) if self._decoder is None else b""
        if self._decoder is None or not self._decoder.eof:
            raise _broken()
        return rest

    def _run(self, decoder: _Decoder, data: bytes) -> Iterator[bytes]:
        has_more = True
        while data or has_more:
            if decoder.eof and data:
                decoder = self._next_member(data)
            try:
                part = decoder.decompress(data, STEP)
            except zlib.error:
                raise _broken() from None
            self._count(len(part))
            if part:
                yield part
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            # a full part may have left output inside the decoder although all input is taken
            has_more = len(part) == STEP and not decoder.eof

    def _begin(self, head: bytes) -> _Decoder:
        if self._encoding == "deflate":
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(head) else -zlib.MAX_WBITS)
        else:
            self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return self._decoder

    def _next_member(self, data: bytes) -> _Decoder:
        """Go on with the next member of a gzip file; after deflate nothing may follow."""
        if self._encoding == "deflate":
            raise _broken()
        return self._begin(data)

    def _count(self, more: int) -> None:
        self._size += more
        if self._size <= self._max_bytes:
            return
        if self._is_plain:
            raise too_large(self._max_bytes)
        raise ApiError(
            413,
            "request_too_large",
            f"Request body exceeds the maximum of {self._max_bytes} bytes after decoding",
            code="request_body_too_large_after_decoding",
        )


def _has_zlib_header(head: bytes) -> bool:
    """Tell deflate in its zlib wrapper from bare deflate, which some clients send under the same name."""
    return len(head) >= HEADER and head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:HEADER], "big") % 31 == 0


def too_large(max_bytes: int) -> ApiError:
    """413 for a body that is too large as it comes, also for a `Content-Length` that says so."""
    return ApiError(413, "request_too_large", f"Request exceeds the maximum size of {max_bytes} bytes")


def _broken() -> ApiError:
    return ApiError(
        400,
        "invalid_request_error",
        "The request body does not match its content-encoding",
        code="request_body_encoding_invalid",
    )
