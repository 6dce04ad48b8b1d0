"""Ready requests, one a line: of Claude (`custom_id`, `params`) or of OpenAI (`custom_id`, `method`, `url`, `body`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from standby.errors import InvalidParams
from standby.wire.chat.reverse import params_of
from standby.workload.faults import BadInput

Dialect = Literal["claude", "openai"]
CHAT = "/v1/chat/completions"


class _Line(msgspec.Struct):
    custom_id: str | None = None
    params: msgspec.Raw = msgspec.Raw()
    body: msgspec.Raw = msgspec.Raw()
    url: str = ""


_decode = msgspec.json.Decoder(_Line).decode


def dialect_of(path: Path) -> Dialect | None:
    """Look at the first line; None if these are rows."""
    try:
        with path.open("rb") as file:
            first = _decode(file.readline())
    except (OSError, msgspec.DecodeError):
        return None
    if first.custom_id is None:
        return None
    return "claude" if first.params else "openai" if first.body else None


def lines_of(path: Path, *, max_tokens: int) -> Iterator[tuple[str, dict[str, Any] | msgspec.Raw]]:
    """Walk over the requests: key and params. `BadInput` names the line that is wrong.

    `max_tokens` is for OpenAI lines that set none.
    """
    with path.open("rb", buffering=1 << 20) as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield _request(text, number, max_tokens)


def _request(text: bytes, number: int, max_tokens: int) -> tuple[str, dict[str, Any] | msgspec.Raw]:
    try:
        line = _decode(text.strip())
        if not line.custom_id:
            raise BadInput(f"line {number}: custom_id: is missing")
        if line.params:
            if not bytes(line.params).startswith(b"{"):
                raise BadInput(f"line {number}: params: must be an object")
            return line.custom_id, line.params
        if line.url and line.url != CHAT:
            raise BadInput(f"line {number}: url: only {CHAT} can be translated")
        return line.custom_id, params_of(msgspec.json.decode(line.body, type=dict[str, Any]), max_tokens=max_tokens)
    except msgspec.DecodeError as error:
        raise BadInput(f"line {number}: {error}") from None
    except InvalidParams as error:
        raise BadInput(f"line {number}: body: {error.message}") from None
