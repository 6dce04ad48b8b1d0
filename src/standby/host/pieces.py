"""The bytes of each token, so that text comes out of a stream token by token."""

from __future__ import annotations

import re
from typing import Any

SAMPLE = "Hello, wörld: 你好 🙂\n\tif x == 10:  print('ok')"
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")
_SPACE = "▁".encode()


class Pieces:
    """Maps a token to its bytes; special tokens have none."""

    def __init__(self, tokenizer: Any) -> None:
        """Read the vocabulary; raises `RuntimeError` if its bytes do not give the tokenizer's own text."""
        self._tokenizer = tokenizer
        self._raw: dict[int, bytes] = {number: raw for raw, number in tokenizer.get_vocab().items()}
        self._special: dict[int, bool] = {}
        self._marked_spaces = any(raw.startswith(_SPACE) for raw in self._raw.values())
        self._check()

    def of(self, token: int) -> bytes:
        """Return the bytes that this token adds to the text."""
        raw = self._raw.get(token, b"")
        if raw[:1] in {b"<", b"["} and self._is_special(token, raw):
            return b""
        if not self._marked_spaces:
            return raw
        byte = _BYTE.fullmatch(raw)
        return bytes([int(byte[1], 16)]) if byte else raw.replace(_SPACE, b" ")

    def _is_special(self, token: int, raw: bytes) -> bool:
        known = self._special.get(token)
        if known is None:
            known = len(raw) > 1 and not _BYTE.fullmatch(raw) and self._tokenizer.decode([token]) == ""
            self._special[token] = known
        return known

    def _check(self) -> None:
        ids = self._tokenizer.encode(SAMPLE, add_special_tokens=False).input_ids.data[0].tolist()
        text = b"".join(map(self.of, ids)).decode("utf-8", "replace")
        if text.strip() != SAMPLE.strip():
            raise RuntimeError("the model's vocabulary cannot be turned into bytes; try --engine llamacpp")
