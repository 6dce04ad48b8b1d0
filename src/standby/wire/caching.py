"""Prompt caching by the documented rules (contract 9): where the breakpoints lie, and what usage they make. Pure.

The prompt is a row of blocks: tools, then system, then messages. Of each block a digest stands for the exact prompt up
to and including it, so equal digests are equal prefixes. A change reaches the levels that it reaches in the API:

===============================================  =====  ======  ========
what changes                                     tools  system  messages
===============================================  =====  ======  ========
a tool's definition                              lost   lost    lost
web search, citations, `speed`, output format    kept   lost    lost
`tool_choice`, whether there are images,         kept   kept    lost
`thinking`, `output_config.effort`
===============================================  =====  ======  ========
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from standby.wire.checks import markers_of
from standby.wire.params import (
    Base64Source,
    CacheControl,
    ContentParam,
    ContentSource,
    DocumentParam,
    FileSource,
    ImageParam,
    PromptParams,
    SearchResultParam,
    TextParam,
    ThinkingEnabled,
    Tool,
    ToolChoiceAuto,
    ToolResultParam,
    ToolUseParam,
    UrlSource,
)
from standby.wire.reply import CacheCreation, Usage

Ttl = Literal["5m", "1h"]
MEDIA_BYTES = 6_000
"""What an image or a PDF weighs beside text, whatever its size: 1,500 tokens of four bytes."""

_encode = msgspec.json.Encoder().encode
_RUNS = (ToolUseParam, ToolResultParam)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a prompt, or one part of a tool result."""

    digest: bytes
    """16 bytes: the exact prompt up to and including this block."""
    end: int
    """Weight of the prompt up to and including this block."""
    position: int
    """Its number in the look-back: a run of `tool_use` or of `tool_result` blocks shares one."""
    marker: Ttl | None = None
    """How long it is to be cached, if a breakpoint stands here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A prompt as caching sees it. A prompt without breakpoints is not looked at: it has no blocks here."""

    blocks: tuple[Block, ...] = ()
    size: int = 0
    """Weight of the whole prompt."""

    @property
    def markers(self) -> tuple[int, ...]:
        """Say which blocks carry a breakpoint, by number, in the order of the prompt."""
        return tuple(number for number, block in enumerate(self.blocks) if block.marker is not None)


UNMARKED = Layout()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How to weigh a prompt: in tokens, by one who can count them block by block, or in bytes."""

    block: Callable[[Any], int]
    """Weighs a tool, a block of a turn or of the system prompt, or a part of a tool result."""
    tools: int = 0
    """What comes with tools, whatever they are."""
    turn: int = 0
    """What comes with each turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The tokens of one prompt by what they cost; they add up to its length (contract 9.2)."""

    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    input: int = 0

    @property
    def total(self) -> int:
        """The length of the prompt."""
        return self.read + self.write_5m + self.write_1h + self.input

    def usage(self, output: int) -> Usage:
        """Write usage."""
        return Usage(
            input_tokens=self.input,
            cache_creation_input_tokens=self.write_5m + self.write_1h,
            cache_read_input_tokens=self.read,
            cache_creation=CacheCreation(
                ephemeral_5m_input_tokens=self.write_5m, ephemeral_1h_input_tokens=self.write_1h
            ),
            output_tokens=output,
        )


def usage_parts(params: PromptParams, *, prompt: int, cached: int | None, output: int) -> Usage:
    """Turn what an engine counted into usage: `prompt` tokens, of which it took `cached` from its prefix cache.

    `cached` is None if the engine does not tell: then nothing is known to be read or written, and all is plain input.
    """
    if cached is None or not is_marked(params):
        return Usage(input_tokens=prompt, output_tokens=output)
    return fitted(layout(params), prompt=prompt, cached=cached).usage(output)


def fitted(layout: Layout, *, prompt: int, cached: int) -> Split:
    """Fit what a real engine reused to the breakpoints of the client.

    Such an engine reuses any common prefix, to the token, and has no minimum; the client reads of it only up to its
    last breakpoint, as in the API: up to there reused tokens are reads and the others writes, by the lifetime asked
    for; behind it all is plain input. Where a breakpoint lies is known in bytes, and taken to be at the same share of
    tokens.
    """
    places = [
        (prompt * block.end // layout.size, block.marker) for block in layout.blocks if block.marker and layout.size
    ]
    last = places[-1][0] if places else 0
    return account(total=prompt, hit=min(cached, last), markers=places)


def account(*, total: int, hit: int, markers: Sequence[tuple[int, Ttl]], minimum: int = 0) -> Split:
    """Split `total` prompt tokens (contract 9.2); `markers` are places in tokens, in order, each with its lifetime.

    `hit` is the length of the longest prefix that was found in the cache. Breakpoints below `minimum` tokens have no
    effect (rule 9).
    """
    places = [(place, ttl) for place, ttl in markers if place >= minimum]
    if not places:
        return Split(input=total)
    last = max(hit, places[-1][0])
    hour = max((place for place, ttl in places if ttl == "1h" and place > hit), default=hit)
    return Split(read=hit, write_1h=hour - hit, write_5m=last - hour, input=total - last)


def is_marked(params: PromptParams) -> bool:
    """Whether the client asks for caching anywhere."""
    return params.cache_control is not None or next(markers_of(params), None) is not None


def layout(
    params: PromptParams, *, scale: Scale | None = None, thinking: str = "disabled", effort: str = "high"
) -> Layout:
    """Lay a prompt out; `params` have passed the checks, so at most four breakpoints stand in the right order.

    It is weighed in bytes if there is no `scale`. `thinking` (a `type`) and `effort` are the model's defaults: naming
    them equals leaving them out.
    """
    if not is_marked(params):
        return UNMARKED
    drawing = _Drawing(scale or BYTES)
    _draw_tools(drawing, params)
    drawing.enter(_system_switches(params))
    for text in _as_blocks(params.system or ()):
        drawing.add(b"", text)
    drawing.enter(_messages_switches(params, thinking, effort))
    for turn in params.messages:
        drawing.turn()
        for block in _as_blocks(turn.content):
            drawing.add(turn.role.encode(), block)
    if params.cache_control is not None:
        drawing.mark_last(params.cache_control.ttl)
    return Layout(blocks=tuple(drawing.blocks), size=drawing.end)


class _Drawing:
    """A layout while it grows."""

    def __init__(self, scale: Scale) -> None:
        self.blocks: list[Block] = []
        self.end = 0
        self._scale = scale
        self._digest = b"tools"
        self._position = -1
        self._run: type | None = None
        self._last_cacheable: int | None = None

    def enter(self, switches: bytes) -> None:
        """Begin a level; what switches it differently is another prompt from here on."""
        self._digest = _chained(self._digest, switches)
        self._run = None

    def skip(self, tool: Tool) -> None:
        """Pass a tool that belongs to the next level: its breakpoint stands behind the tools before it."""
        self._position += 1
        self._append(self._digest, self.end, tool.cache_control.ttl if tool.cache_control else None)
        self.end += self._scale.block(_unmarked(tool))

    def tools(self) -> None:
        """Begin the tools."""
        self.end += self._scale.tools

    def turn(self) -> None:
        """Begin a turn; one that goes on in the role of the last one is the same turn to the cache."""
        self.end += self._scale.turn

    def add(self, label: bytes, block: Any) -> None:
        """Add one block."""
        kind = type(block) if isinstance(block, _RUNS) else None
        self._position += kind is None or kind is not self._run
        self._run = kind
        if isinstance(block, ToolResultParam) and isinstance(block.content, list):
            block = self._add_parts(label, block, block.content)
        control: CacheControl | None = getattr(block, "cache_control", None)
        plain = _unmarked(block)
        self._digest = _chained(self._digest, label + _encode(plain))
        self.end += self._scale.block(plain)
        if hasattr(block, "cache_control"):
            self._last_cacheable = len(self.blocks)
        self._append(self._digest, self.end, control.ttl if control else None)

    def mark_last(self, ttl: Ttl) -> None:
        """Mark the last block that can be marked; one that is marked already stays as it is (contract 9.1, rule 4)."""
        if self._last_cacheable is not None and self.blocks[self._last_cacheable].marker is None:
            self.blocks[self._last_cacheable] = replace(self.blocks[self._last_cacheable], marker=ttl)

    def _add_parts(self, label: bytes, block: ToolResultParam, parts: list[Any]) -> ToolResultParam:
        """Add the parts of a tool result, which can carry breakpoints; return the block without these."""
        digest = _chained(self._digest, label + block.tool_use_id.encode())
        end, plain = self.end, [_unmarked(part) for part in parts]
        for part, unmarked in zip(parts, plain, strict=True):
            digest, end = _chained(digest, _encode(unmarked)), end + self._scale.block(unmarked)
            self._append(digest, end, part.cache_control.ttl if part.cache_control else None)
        return msgspec.structs.replace(block, content=plain)

    def _append(self, digest: bytes, end: int, marker: Ttl | None) -> None:
        self.blocks.append(Block(digest, end, self._position, marker))


def _draw_tools(drawing: _Drawing, params: PromptParams) -> None:
    if params.tools:
        drawing.tools()
    for tool in params.tools or ():
        if _is_web_search(tool):
            drawing.skip(tool)
        else:
            drawing.add(b"", tool)


def _is_web_search(tool: Tool) -> bool:
    """Whether a tool is a switch of the system prompt rather than a definition."""
    return (tool.type or "").startswith("web_search")


def _system_switches(params: PromptParams) -> bytes:
    """Write what a change of makes another system prompt."""
    searches = [_encode(_unmarked(tool)) for tool in params.tools or () if _is_web_search(tool)]
    form = params.output_config.format if params.output_config is not None else params.output_format
    cites = any(
        isinstance(block, (DocumentParam, SearchResultParam))
        and block.citations is not None
        and block.citations.enabled
        for block in _content(params)
    )
    return b"system" + b"".join(searches) + _encode((form, cites, params.speed == "fast"))


def _messages_switches(params: PromptParams, thinking: str, effort: str) -> bytes:
    """Write what a change of makes other messages after the same system prompt; a default equals what is left out."""
    choice = params.tool_choice or ToolChoiceAuto()
    if getattr(choice, "disable_parallel_tool_use", None) is False:
        choice = msgspec.structs.replace(choice, disable_parallel_tool_use=None)
    if params.thinking is not None:
        thinking = str(params.thinking.__struct_config__.tag)
    budget = params.thinking.budget_tokens if isinstance(params.thinking, ThinkingEnabled) else 0
    if params.output_config is not None and params.output_config.effort is not None:
        effort = params.output_config.effort
    has_image = any(isinstance(block, ImageParam) for block in _content(params))
    return b"messages" + _encode((choice, thinking, budget, effort, has_image))


def _content(params: PromptParams) -> Iterable[Any]:
    """Walk the blocks of all turns, and the parts of tool results."""
    for turn in params.messages:
        if isinstance(turn.content, str):
            continue
        for block in turn.content:
            yield block
            if isinstance(block, ToolResultParam) and isinstance(block.content, list):
                yield from block.content


def _as_blocks(content: str | Iterable[ContentParam]) -> Iterable[Any]:
    """A string is one block of text; the empty string, which an assistant's last turn may be, is none."""
    if isinstance(content, str):
        return (TextParam(text=content),) if content else ()
    return content


def _unmarked(block: Any) -> Any:
    """Return a block without its breakpoint."""
    if getattr(block, "cache_control", None) is not None:
        return msgspec.structs.replace(block, cache_control=None)
    return block


def _bytes(block: Any) -> int:
    return len(_encode(block)) + _media(block)


def _media(block: Any) -> int:
    """Say how much more or less than its bytes a block weighs."""
    match block:
        case ImageParam(source=source) | DocumentParam(source=Base64Source() | UrlSource() | FileSource() as source):
            return MEDIA_BYTES - (len(source.data) if isinstance(source, Base64Source) else 0)
        case DocumentParam(source=ContentSource(content=list(parts))) | ToolResultParam(content=list(parts)):
            return sum(_media(part) for part in parts)
        case _:
            return 0


BYTES = Scale(block=_bytes)
"""Bytes of JSON, media counted as `MEDIA_BYTES`."""


def _chained(digest: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=digest, digest_size=16).digest()
