"""Find the items in a create's body without ever holding it: windows of bytes in, plan entries out.

The body may have 256 MB and 100,000 items. A window is cut where one item ends and the next begins; a cut is right
exactly when `[` + window + `]` is a JSON array, because a cut inside an item leaves a string or a brace open.
Small bodies are split in the server's process, large ones in a child (`split_child.py`).
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from standby.errors import ApiError, invalid
from standby.records import PlanFacts, Slice, pack_plan_entry
from standby.scheduler.plan import Asked, Plan, arrange, runs_of
from standby.scheduler.prompts import BYTES_A_TOKEN, read_prompt
from standby.scheduler.sharing import Chains, in_submit_order, sorted_by_prefix
from standby.wire.envelope import CUSTOM_ID, NOT_JSON, duplicate_fault, envelope_fault, item_fault, size_fault

WINDOW = 4 << 20
TRIES = 8
SHARED = "shared"

_HEAD = re.compile(rb'\s*\{\s*"requests"\s*:\s*\[\s*')
_TAIL = re.compile(rb"\]\s*\}\s*\Z")
_BETWEEN = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:custom_id|params)"\s*:)')
_USUAL = re.compile(rb'[\s,}]*\{\s*"custom_id"\s*:\s*"[^"]*"\s*,\s*"params"\s*:\s*')
_BYTE = re.compile(r"\(byte (\d+)\)")
_array = msgspec.json.Decoder(list[msgspec.Raw])


class Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One element of `requests`, its params still bytes."""

    custom_id: str
    params: msgspec.Raw


_items = msgspec.json.Decoder(list[Item])
_item = msgspec.json.Decoder(Item)


class SplitResult(msgspec.Struct, frozen=True):
    """What the child answers: size, runs and facts of the plan it wrote, or the fault of the body."""

    size: int = 0
    runs: list[tuple[int, int, int]] = []
    prompt_tokens: int = 0
    shared_tokens: int = 0
    groups: int = 0
    fault: str | None = None

    def slices(self) -> tuple[Slice, ...]:
        """The runs as records."""
        return tuple(Slice(first=first, count=count, cost=cost) for first, count, cost in self.runs)

    def facts(self) -> PlanFacts:
        """What the plan knows of the batch."""
        return PlanFacts(prompt_tokens=self.prompt_tokens, shared_tokens=self.shared_tokens, groups=self.groups)


def split(items: Path, plan: Path, *, max_items: int, order: str = SHARED) -> SplitResult:
    """Check the envelope of the body in `items` and write its plan; the fault is in the result, never raised.

    `order` is `shared`, the one that `plan.py` finds, or `submit`.
    """
    try:
        with items.open("rb", buffering=0) as body:
            found = find_items(body, max_items=max_items)
            arranged = plan_of(found, body, order=order)
    except ApiError as fault:
        return SplitResult(fault=fault.message)
    with plan.open("wb") as file:
        file.writelines(_packed(found, arranged))
    return SplitResult(
        size=len(found),
        runs=[(run.first, run.count, run.cost) for run in runs_of(arranged, found.lengths)],
        prompt_tokens=arranged.facts.prompt_tokens,
        shared_tokens=arranged.facts.shared_tokens,
        groups=arranged.facts.groups,
    )


class Found:
    """The items of a body in submit order: where they lie, and what a plan needs of them. About 100 bytes each."""

    def __init__(self) -> None:
        """Begin with none."""
        self.names: dict[str, None] = {}
        self.offsets, self.lengths, self.crcs = array("Q"), array("I"), array("I")
        self.prompts, self.max_tokens = array("I"), array("I")
        self.chains = Chains()

    def __len__(self) -> int:
        """Count items."""
        return len(self.offsets)

    def add(self, name: str, offset: int, params: bytes) -> None:
        """Add one more; its name must be new."""
        self.names[name] = None
        self.offsets.append(offset)
        self.lengths.append(len(params))
        self.crcs.append(zlib.crc32(params))
        prompt = read_prompt(params)
        self.prompts.append(len(prompt.text))
        self.max_tokens.append(prompt.max_tokens)
        self.chains.add(prompt.text, prompt.kind)


def find_items(body: BinaryIO, *, max_items: int) -> Found:
    """Find the items of a create's body; raises `InvalidParams` at the first fault."""
    found = Found()
    count = 0
    try:
        for window in windows_of(body):
            for item, offset, params in located(window, count):
                if count < max_items:
                    _check(count, item, params, found.names)
                    found.add(item.custom_id, offset, params)
                count += 1
    except RecursionError:
        raise invalid(f"{NOT_JSON}it is nested too deeply") from None
    if not max_items >= count > 0:
        raise invalid(size_fault(count, max_items=max_items))
    return found


def plan_of(found: Found, body: BinaryIO, *, order: str = SHARED) -> Plan:
    """Order what was found; prompts that begin alike are read from the body again.

    `facts` say what the best order shares, whatever the order is.
    """

    def text_of(item: int) -> bytes:
        body.seek(found.offsets[item])
        return read_prompt(body.read(found.lengths[item])).text

    asked = Asked(prompts=found.prompts, max_tokens=found.max_tokens)
    places, shared = sorted_by_prefix(found.chains, text_of)
    if order == SHARED:
        return arrange(places, shared, asked)
    plan = arrange(*in_submit_order(found.chains, text_of), asked, may_move=False)
    bound = sum(common // BYTES_A_TOKEN for common in shared)
    return replace(plan, facts=replace(plan.facts, shared_tokens=bound))


@dataclass(frozen=True, slots=True)
class Window:
    """Some whole items of the body: their bytes, where they begin in the body, and the items, decoded or raw."""

    data: bytes
    offset: int
    items: Sequence[Item | msgspec.Raw]


def windows_of(body: BinaryIO) -> Iterator[Window]:
    """Yield the elements of `requests` window by window; raises `InvalidParams` if the body has another shape."""
    data = body.read(WINDOW)
    head = _HEAD.match(data)
    if head is None:
        raise invalid(_fault_of_whole(body))
    offset, data = head.end(), data[head.end() :]
    while True:
        more = body.read(max(WINDOW, len(data)))
        data += more
        cut, items = _cut_inside(data) if more else _cut_at_end(data, body)
        if items:
            yield Window(data[:cut], offset, items)
        if not more:
            return
        offset, data = offset + cut, data[cut:]


def located(window: Window, first: int) -> Iterator[tuple[Item, int, bytes]]:
    """Yield (item, offset of its params in the body, its params) for a window whose first item has number `first`."""
    data, place = window.data, 0
    for number, element in enumerate(window.items, first):
        item = element if isinstance(element, Item) else _decode_one(number, element)
        params = bytes(item.params)
        usual = _USUAL.match(data, place)
        start = usual.end() if usual and data.startswith(params, usual.end()) else data.index(params, place)
        yield item, window.offset + start, params
        place = start + len(params)


def _cut_inside(data: bytes) -> tuple[int, Sequence[Item | msgspec.Raw]]:
    """Return where the last whole item found ends, and the items before it; (0, []) asks for more bytes."""
    for cut in _candidates(data):
        whole = data[:cut].rstrip(b", \t\r\n")
        try:
            return cut, _decode(whole)
        except msgspec.DecodeError as error:
            place = _BYTE.search(str(error))
            if place and int(place[1]) < len(whole):
                raise invalid(f"{NOT_JSON}{error}") from None
    return 0, []


def _candidates(data: bytes) -> list[int]:
    """Places where something that looks like an item begins, last first, from the end of the window only."""
    reach = 1 << 16
    while True:
        start = max(0, len(data) - reach)
        found = [match.end() for match in _BETWEEN.finditer(data, start)]
        if found or start == 0:
            return found[: -TRIES - 1 : -1]
        reach *= 8


def _cut_at_end(data: bytes, body: BinaryIO) -> tuple[int, Sequence[Item | msgspec.Raw]]:
    end = data.rfind(b"]")
    if end < 0 or not _TAIL.match(data, end):
        raise invalid(_fault_of_whole(body))
    try:
        return end, _decode(data[:end])
    except msgspec.DecodeError:
        raise invalid(_fault_of_whole(body)) from None


def _decode(elements: bytes) -> Sequence[Item | msgspec.Raw]:
    """Decode what stands between the brackets; elements that are no items stay raw, for words to be found later."""
    _check_utf8(elements)
    array = b"[" + elements + b"]"
    try:
        return _items.decode(array)
    except msgspec.ValidationError:
        return _array.decode(array)


def _check_utf8(data: bytes) -> None:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            raise invalid(f"{NOT_JSON}it is not UTF-8") from None


def _decode_one(number: int, raw: msgspec.Raw) -> Item:
    try:
        return _item.decode(raw)
    except msgspec.DecodeError:
        raise invalid(item_fault(number, bytes(raw))) from None


def _check(number: int, item: Item, params: bytes, seen: Container[str]) -> None:
    if not CUSTOM_ID.fullmatch(item.custom_id) or not params.startswith(b"{"):
        raise invalid(item_fault(number, msgspec.json.encode(item)))
    if item.custom_id in seen:
        raise invalid(duplicate_fault(item.custom_id))


def _packed(found: Found, plan: Plan) -> Iterator[bytes]:
    """Write the entries in the order of the plan."""
    names = list(found.names)
    for item, group, cost, shared in zip(plan.items, plan.groups, plan.costs, plan.shared, strict=True):
        offset, length, crc = found.offsets[item], found.lengths[item], found.crcs[item]
        yield pack_plan_entry(offset, length, item, group, cost, shared, crc, names[item])


def _fault_of_whole(body: BinaryIO) -> str:
    """Decode a body that is no create at once, to say what is wrong with it; memory is the body's size at most."""
    body.seek(0)
    return envelope_fault(body.read())
