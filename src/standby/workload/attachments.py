"""Images and PDFs of a row, as blocks of a request."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from pathlib import Path
from typing import Any

from standby.workload.faults import BadInput

PDF = "application/pdf"
LARGEST = 32_000_000
"""Bytes of one attachment: no request of the service holds more (contract 1.3)."""
MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", PDF),
)


def block_of(place: str, *, row: int) -> dict[str, Any]:
    """Make a block of a path, a `data:` URL or an address on the web; `BadInput` names the row, from 1."""
    if place.startswith(("http://", "https://")):
        kind = "document" if mimetypes.guess_type(place.partition("?")[0])[0] == PDF else "image"
        return {"type": kind, "source": {"type": "url", "url": place}}
    data = _of_url(place, row) if place.startswith("data:") else _of_file(place, row)
    media = media_of(data)
    if media is None:
        raise BadInput(f"row {row}: the attachment is neither a JPEG, PNG, GIF or WebP image nor a PDF")
    source = {"type": "base64", "media_type": media, "data": base64.b64encode(data).decode()}
    return {"type": "document" if media == PDF else "image", "source": source}


def media_of(data: bytes) -> str | None:
    """Say what a file is by its first bytes, whatever it is called; None if it is nothing that models take."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media for magic, media in MAGIC if data.startswith(magic)), None)


def _of_file(place: str, row: int) -> bytes:
    path = Path(place)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BadInput(f"row {row}: the attachment is no file")
        _check_size(size, row)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its path holds what no path can"
        raise BadInput(f"row {row}: the attachment cannot be read ({why})") from None


def _of_url(place: str, row: int) -> bytes:
    head, _, text = place.partition(",")
    if not head.endswith(";base64"):
        raise BadInput(f"row {row}: the attachment is a data: URL, but not in base64")
    _check_size(len(text) * 3 // 4, row)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise BadInput(f"row {row}: the attachment is a data: URL, but no base64") from None


def _check_size(size: int, row: int) -> None:
    if size > LARGEST:
        raise BadInput(f"row {row}: the attachment has {size:,} bytes; a request holds at most {LARGEST:,}")
