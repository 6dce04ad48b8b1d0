"""What a plan sees of an item: its prompt as bytes in the order in which engines render it. Pure.

Tools come first, then system, then messages. Cache breakpoints are left out, for they change no token; nothing else is
touched, so two prompts that begin with the same bytes begin with the same tokens. What changes the render from its
very beginning (model, tool choice, thinking) keeps prompts apart altogether.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

import msgspec

BYTES_A_TOKEN = 4
MEDIA_BYTES = 6_000
"""What an image or a document in base 64 counts as, whatever its size: 1,500 tokens."""
MOST_TOKENS = (1 << 32) - 1

_MARKER = re.compile(rb'(,\s*)?"cache_control"\s*:\s*\{[^{}]*"ephemeral"[^{}]*\}(?(1)|\s*,?\s*)')
_MEDIA = re.compile(rb'"data"\s*:\s*"([A-Za-z0-9+/=]{6000,})"')
_NOTHING = msgspec.Raw(b"")


class _Params(msgspec.Struct, gc=False):
    """The fields of `params` that make the prompt; every other one is passed over."""

    model: msgspec.Raw = _NOTHING
    tools: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    tool_choice: msgspec.Raw = _NOTHING
    thinking: msgspec.Raw = _NOTHING
    max_tokens: Any = 0


_params = msgspec.json.Decoder(_Params)


class Prompt(NamedTuple):
    """One prompt; one that no engine would take has no text. A tuple, for there are 100,000 while a client waits."""

    kind: int
    """Equal for prompts that may share a beginning."""
    text: bytes
    max_tokens: int


NO_PROMPT = Prompt(0, b"", 0)


def read_prompt(params: bytes) -> Prompt:
    """Read the prompt out of an item's `params`, which are a JSON object; `RecursionError` if it is nested too deeply.

    What is malformed is told when the item runs; until then it is an item without a prompt.
    """
    try:
        fields = _params.decode(params)
    except msgspec.DecodeError:
        return NO_PROMPT  # numbers beyond all bounds
    model = bytes(fields.model)
    if not (model.startswith(b'"') and bytes(memoryview(fields.messages)[:1]) == b"["):
        return NO_PROMPT
    text = b"".join((fields.tools, fields.system, fields.messages))
    if b'"cache_control"' in text:
        text = _MARKER.sub(b"", text)
    if len(text) > MEDIA_BYTES and b'"base64"' in text:
        text = _MEDIA.sub(_weighed, text)
    kind = hash(b"".join((model, fields.tool_choice, fields.thinking)))
    most = fields.max_tokens
    return Prompt(kind, text, min(max(most, 0), MOST_TOKENS) if isinstance(most, int) else 0)


def _weighed(found: re.Match[bytes]) -> bytes:
    """Put a digest as long as its weight where the bytes of an image are: equal for equal images only."""
    digest = hashlib.blake2b(found[1]).hexdigest().encode()
    return (digest * (MEDIA_BYTES // len(digest) + 1))[:MEDIA_BYTES]
