"""Bodies towards engines."""

from __future__ import annotations

import io

LARGE = 1 << 19
"""From this size on a body is sent in pieces."""


def in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    """Let large bodies be read piece by piece: aiohttp warns of writing one at once."""
    return io.BytesIO(body) if body is not None and len(body) > LARGE else body
