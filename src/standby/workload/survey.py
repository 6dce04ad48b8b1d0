"""What a job asks for, found in one pass over its bodies on disk. Memory: some 20 bytes a request, whatever its length.

A request weighs its bytes; images and documents in base 64 weigh as much as text of 1,500 tokens, whatever their size,
since their bytes say nothing about their tokens.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from standby.workload.bodies import BUFFER
from standby.workload.jobfile import JobFile
from standby.workload.parts import COMMA, HEAD, TAIL
from standby.workload.service import COUNTED

MEDIA_BYTES = 6_000
KEPT = 2_048
"""Different prefixes up to which they are counted exactly; more are estimated, to some 3%."""
LONGEST_COMMON = 1 << 20
SAMPLING = ("temperature", "top_p", "top_k")
Place = tuple[int, int]
"""Of a request: its part, and the byte at which its line begins."""


class Distinct:
    """Count different values in little memory: only the smallest hashes are kept (a KMV sketch)."""

    def __init__(self) -> None:
        """Begin with none."""
        self._largest: list[int] = []
        self._kept: set[int] = set()

    def add(self, number: int) -> None:
        """Count a value by its hash of 64 bits, unless it was seen."""
        if number in self._kept:
            return
        if len(self._kept) < KEPT:
            self._kept.add(number)
            heapq.heappush(self._largest, -number)
        elif number < -self._largest[0]:
            self._kept.add(number)
            self._kept.discard(-heapq.heapreplace(self._largest, -number))

    @property
    def count(self) -> int:
        """How many there are; exact below `KEPT`."""
        if len(self._kept) < KEPT:
            return len(self._kept)
        return round((KEPT - 1) * _MASK / -self._largest[0])


@dataclass(slots=True, kw_only=True)
class Prefix:
    """What requests begin with, up to a place where a marker could stand."""

    size: int = 0
    """Bytes of all requests together."""
    distinct: Distinct = field(default_factory=Distinct)

    def add(self, size: int, number: int) -> None:
        """Take the beginning of one request: its bytes, its hash."""
        self.size += size
        self.distinct.add(number & _MASK)


@dataclass(slots=True, kw_only=True)
class Asked:
    """What all requests to one model ask for."""

    model: str
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    """What each weighs, in bytes."""
    rows: array[int] = field(default_factory=lambda: array("Q"))
    """Which request of the job each is, from 0."""
    answers: Counter[int] = field(default_factory=Counter)
    """Requests by how long their answers may be."""
    uses: Counter[str] = field(default_factory=Counter)
    """Requests by what they use: `schema`, `image`, `pdf`, `temperature`, `stream`, `marker`, `marker_1h`, ….."""
    fixed: Prefix = field(default_factory=Prefix)
    """Tools and system prompt."""
    first: Prefix = field(default_factory=Prefix)
    """Those, and the first block of the first turn."""
    common: bytes | None = None
    """What the turns of all of them begin with, to the byte; None before the first."""

    @property
    def longest_answer(self) -> int:
        """Most tokens of one answer."""
        return max(self.answers, default=0)

    @property
    def answer_tokens(self) -> int:
        """Most tokens of all answers together."""
        return sum(tokens * rows for tokens, rows in self.answers.items())

    def is_used_by_all(self, name: str) -> bool:
        """Whether every request uses it."""
        return self.uses[name] == len(self.sizes)


@dataclass(frozen=True, slots=True)
class Frame:
    """A request without its turns."""

    model: str = ""
    answer: int = 0
    fixed: int = 0
    """Bytes of tools and system prompt."""
    number: int = 0
    """Hash of these."""
    uses: tuple[str, ...] = ()


class Survey:
    """All of it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.models: dict[str, Asked] = {}
        self.parts = array("L")
        self.offsets = array("Q")
        self._hashes = array("Q")
        self._rest = b""
        self._frame = Frame()

    @property
    def rows(self) -> int:
        """How many requests there are."""
        return len(self.parts)

    @property
    def most_asked(self) -> Asked:
        """The model that most requests go to."""
        return max(self.models.values(), key=lambda asked: len(asked.sizes))

    def repeated(self) -> int:
        """Count the requests that are equal to an earlier one."""
        return sum(one == other for one, other in pairwise(sorted(self._hashes)))

    def add(self, place: Place, line: bytes) -> None:
        """Take one request."""
        raw = bytes(_line(line).params)
        messages = bytes(_messages(raw).messages)
        at = len(raw) - len(messages) - 1
        if not raw.startswith(messages, at):
            at = raw.find(messages)
        rest = raw[:at] + raw[at + len(messages) :]
        if rest != self._rest:  # most requests of a job differ in their turns only
            self._rest, self._frame = rest, _frame_of(raw, rest)
        frame = self._frame
        asked = self.models.get(frame.model) or self.models.setdefault(frame.model, Asked(model=frame.model))
        asked.rows.append(len(self.parts))
        self.parts.append(place[0])
        self.offsets.append(place[1])
        self._hashes.append(hash(raw) & _MASK)
        _look(asked, frame, messages, len(raw))


def survey(job: JobFile) -> Survey:
    """Look at every request of a prepared job that is sent for the first time."""
    found = Survey()
    for part in job.parts():
        if part.round == 0 and job.body(part.number).exists():
            for offset, line in _lines(job.body(part.number)):
                found.add((part.number, offset), line)
    return found


def params_at(job: JobFile, place: Place) -> dict[str, Any]:
    """Read the params of one request again."""
    with job.body(place[0]).open("rb") as file:
        file.seek(place[1])
        found: dict[str, Any] = msgspec.json.decode(file.readline().removeprefix(COMMA))["params"]
    return found


def beginning_of(params: dict[str, Any]) -> dict[str, Any]:
    """Keep tools and system prompt of a request, before a question of one letter."""
    kept = {name: params[name] for name in ("model", "tools", "system") if params.get(name)}
    return {**kept, "messages": [{"role": "user", "content": "x"}]}


def prompt_of(params: dict[str, Any]) -> dict[str, Any]:
    """Keep what a token count takes."""
    return {name: value for name, value in params.items() if name in COUNTED}


class _Line(msgspec.Struct):
    params: msgspec.Raw


class _Params(msgspec.Struct):
    model: Any = ""
    max_tokens: Any = 0
    system: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    output_config: Any = None
    output_format: Any = None
    thinking: Any = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    stream: Any = None
    speed: Any = None
    inference_geo: Any = None


class _Messages(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw()


class _Turn(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw()


_line = msgspec.json.Decoder(_Line).decode
_messages = msgspec.json.Decoder(_Messages).decode
_params = msgspec.json.Decoder(_Params).decode
_turns = msgspec.json.Decoder(list[_Turn]).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_MASK = (1 << 64) - 1


def _lines(body: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with body.open("rb", buffering=BUFFER) as file:
        for line in file:
            if line not in {HEAD, TAIL}:
                yield offset, line.removeprefix(COMMA)
            offset += len(line)


def _look(asked: Asked, frame: Frame, messages: bytes, size: int) -> None:
    asked.answers[frame.answer] += 1
    asked.sizes.append(size + _media(asked, messages))
    for name in frame.uses:
        asked.uses[name] += 1
    if b'"cache_control"' in messages and not {"marker", "marker_1h"}.intersection(frame.uses):
        asked.uses["marker_1h" if b'"1h"' in messages else "marker"] += 1
    asked.fixed.add(frame.fixed, frame.number)
    first = _first_block(messages)
    asked.first.add(frame.fixed + len(first), hash((frame.number, first)))
    asked.common = messages[:LONGEST_COMMON] if asked.common is None else shared(asked.common, messages)


def _frame_of(raw: bytes, rest: bytes) -> Frame:
    params = _params(raw)
    most = params.max_tokens
    fixed = bytes(params.tools) + bytes(params.system)
    return Frame(
        model=params.model if isinstance(params.model, str) else "",
        answer=most if isinstance(most, int) and 0 <= most < _MASK else 0,
        fixed=len(fixed),
        number=hash(fixed),
        uses=tuple(_uses(params, rest)),
    )


def _uses(params: _Params, rest: bytes) -> Iterator[str]:
    """Name what a request uses, beside its turns, that not every model takes or that is priced apart."""
    yield from (name for name in SAMPLING if getattr(params, name) is not None)
    if _has(params.output_config, "format") or params.output_format:
        yield "schema"
    if isinstance(params.thinking, dict):
        yield f"thinking:{params.thinking.get('type')}"
    if params.stream is True:
        yield "stream"
    if params.speed == "fast":
        yield "fast"
    if params.inference_geo == "us":
        yield "us"
    if b'"web_search_' in bytes(params.tools):
        yield "search"
    if b'"cache_control"' in rest:
        yield "marker_1h" if b'"1h"' in rest else "marker"


def _has(value: Any, name: str) -> bool:
    return isinstance(value, dict) and bool(value.get(name))


def _media(asked: Asked, messages: bytes) -> int:
    """Say how much more or less than its bytes a request weighs."""
    if b'"image"' not in messages and b'"document"' not in messages:
        return 0
    found: list[dict[str, Any]] = list(_blocks(msgspec.json.decode(messages)))
    kinds = {_kind(block) for block in found}
    asked.uses.update(kind for kind in kinds if kind)
    return sum(MEDIA_BYTES - len(str(block["source"].get("data") or "")) for block in found if _kind(block))


def _kind(block: dict[str, Any]) -> str:
    """Say whether a block is an image, or a PDF; a document of plain text is neither."""
    source = block["source"]
    if source.get("type") in {"text", "content"}:
        return ""
    return "image" if block["type"] == "image" else "pdf"


def _blocks(value: Any) -> Iterator[dict[str, Any]]:
    """Walk over images and documents, also in results of tools."""
    if isinstance(value, list):
        for one in value:
            yield from _blocks(one)
    elif isinstance(value, dict):
        if value.get("type") in {"image", "document"} and isinstance(value.get("source"), dict):
            yield value
        yield from _blocks(value.get("content"))


def _first_block(messages: bytes) -> bytes:
    try:
        turns = _turns(messages) if messages else []
        content = turns[0].content if turns else b""
        blocks = _raws(content) if bytes(content).startswith(b"[") else [content]
    except msgspec.DecodeError:
        return b""
    return bytes(blocks[0]) if blocks else b""


def shared(one: bytes, other: bytes) -> bytes:
    """Return what both begin with."""
    if other.startswith(one):
        return one
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return one[:low]
