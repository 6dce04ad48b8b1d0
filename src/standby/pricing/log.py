"""Past requests out of a log: JSON Lines of Messages, of batch results, or of `{"model": …, "usage": …}`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from standby.errors import StandbyError
from standby.pricing.savings import Past
from standby.records import Tokens


class LogError(StandbyError):
    """A line of a log cannot be read; the message names it."""


class _Creation(msgspec.Struct, frozen=True):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _Creation | None = None
    service_tier: str | None = None


class _Message(msgspec.Struct, frozen=True):
    model: str
    usage: _Usage


class _Result(msgspec.Struct, frozen=True):
    type: str
    message: _Message | None = None


class _Row(msgspec.Struct, frozen=True):
    result: _Result


_decode_row = msgspec.json.Decoder(_Row).decode
_decode_message = msgspec.json.Decoder(_Message).decode


def read_log(lines: Iterable[bytes], *, name: str = "log") -> Iterator[Past]:
    """Read requests; a batch result that did not succeed costs nothing and is left out. Raises `LogError`.

    Cache writes without a lifetime count as 5-minute ones, as the API itself does it.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            message = _message(line, f"{name}:{number}")
            if message is not None:
                yield Past(
                    model=message.model,
                    tokens=_tokens(message.usage, f"{name}:{number}"),
                    is_batch=message.usage.service_tier == "batch",
                )


def _message(line: bytes, at: str) -> _Message | None:
    try:
        if b'"result"' in line and isinstance(found := msgspec.json.decode(line), dict) and "result" in found:
            return _decode_row(line).result.message
        return _decode_message(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LogError(f"{at}: is no Message with `model` and `usage`: {_where(error)}") from None


def _where(error: Exception) -> str:
    """Keep of a decoder's words only what cannot quote the line."""
    return str(error)[:200] if isinstance(error, msgspec.ValidationError) else "not JSON"


def _tokens(usage: _Usage, at: str) -> Tokens:
    written = usage.cache_creation_input_tokens or 0
    by_ttl = usage.cache_creation or _Creation(ephemeral_5m_input_tokens=written)
    counts: dict[str, Any] = {
        "input": usage.input_tokens,
        "write_5m": by_ttl.ephemeral_5m_input_tokens,
        "write_1h": by_ttl.ephemeral_1h_input_tokens,
        "read": usage.cache_read_input_tokens or 0,
        "output": usage.output_tokens,
    }
    if any(count < 0 for count in counts.values()):
        raise LogError(f"{at}: usage: a count is negative")
    return Tokens(**counts)
