"""The header of a GGUF file: name, context length, and the shape of its KV cache. Reads no weights."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 28


class NotGguf(Exception):
    """The file is no GGUF file that we can read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the host needs to know before it loads the weights."""

    name: str
    context: int
    layers: int
    kv_heads: int
    key_length: int
    value_length: int

    @property
    def kv_values(self) -> int:
        """Numbers that a token takes in a KV cache."""
        return self.layers * self.kv_heads * (self.key_length + self.value_length)


def read_header(path: Path) -> Header:
    """Read the header; raises `NotGguf`, or `OSError` if the file cannot be read."""
    with path.open("rb") as file:
        try:
            values = _values(file)
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            raise NotGguf(f"{path.name} is not a GGUF file: {error}") from None
    return _header(values, path)


def _header(values: dict[str, Any], path: Path) -> Header:
    kind = values.get("general.architecture", "")

    def get(key: str, default: int = 0) -> int:
        value = values.get(f"{kind}.{key}", default)
        return max(value) if isinstance(value, list) else int(value)

    heads = get("attention.head_count", 1)
    each = get("embedding_length") // max(1, heads)
    if not get("block_count") or not each:
        raise NotGguf(f"{path.name} does not say the size of its model")
    return Header(
        name=path.stem,
        context=get("context_length", 2048),
        layers=get("block_count"),
        kv_heads=get("attention.head_count_kv", heads),
        key_length=get("attention.key_length", each),
        value_length=get("attention.value_length", each),
    )


def _values(file: BinaryIO) -> dict[str, Any]:
    magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in {2, 3}:
        raise ValueError("the first bytes do not say GGUF 2 or 3")
    return {_string(file): _value(file, _one(file, "<I")) for _ in range(count)}


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        return [_value(file, inner) for _ in range(count)]
    if kind not in _FORMATS:
        raise ValueError(f"unknown kind of value {kind}")
    return _one(file, _FORMATS[kind])


def _string(file: BinaryIO) -> str:
    length = _one(file, "<Q")
    if length > _LONGEST:
        raise ValueError("a text is longer than the file can be")
    return file.read(length).decode("utf-8", "replace")


def _one(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]
