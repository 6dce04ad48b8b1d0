"""Ready requests, one a line: of Claude (`custom_id`, `params`) or of OpenAI (`custom_id`, `method`, `url`, `body`)."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from standby.errors import InvalidParams
from standby.wire.chat.reverse import params_of
from standby.workload.faults import BadInput

Dialect = Literal["claude", "openai"]
CHAT = "/v1/chat/completions"
BUFFER = 1 << 20


class _Line(msgspec.Struct):
    custom_id: str | None = None
    params: msgspec.Raw = msgspec.Raw()
    body: msgspec.Raw = msgspec.Raw()
    url: str = ""


_decode = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(dict[str, Any]).decode


def dialect_of(path: Path) -> Dialect | None:
    """Look at the first line; None if these are rows."""
    try:
        with path.open("rb") as file:
            first = _decode(next((text for _, text in _texts(file)), b""))
    except (OSError, msgspec.DecodeError):
        return None
    if first.custom_id is None:
        return None
    return "claude" if first.params else "openai" if first.body else None


def count(path: Path) -> int:
    """Count the requests."""
    with path.open("rb", buffering=BUFFER) as file:
        return sum(1 for _ in _texts(file))


def lines_of(path: Path, *, max_tokens: int) -> Iterator[tuple[str, dict[str, Any] | msgspec.Raw]]:
    """Walk over the requests: key and params. `BadInput` names the line that is wrong.

    `max_tokens` is for OpenAI lines that set none.
    """
    with path.open("rb", buffering=BUFFER) as file:
        for number, text in _texts(file):
            yield _request(text, number, max_tokens)


def _texts(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Walk over lines that hold anything, with their numbers from 1; a mark of the byte order is none of it."""
    for number, line in enumerate(file, start=1):
        text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
        if text:
            yield number, text


def _request(text: bytes, number: int, max_tokens: int) -> tuple[str, dict[str, Any] | msgspec.Raw]:
    try:
        line = _decode(text)
        if not line.custom_id:
            raise BadInput(f"line {number}: custom_id: is missing")
        if line.params:
            if not bytes(line.params).startswith(b"{"):
                raise BadInput(f"line {number}: params: must be an object")
            return line.custom_id, line.params
        if not line.body:
            raise BadInput(f"line {number}: has neither params nor a body")
        if line.url and line.url != CHAT:
            raise BadInput(f"line {number}: url: only {CHAT} can be translated")
        return line.custom_id, params_of(_decode_body(line.body), max_tokens=max_tokens)
    except msgspec.DecodeError as error:
        raise BadInput(f"line {number}: {error}") from None
    except InvalidParams as error:
        raise BadInput(f"line {number}: body: {error.message}") from None
