"""Find the items in a create's body without ever holding it: windows of bytes in, plan entries out.

The body may have 256 MB and 100,000 items. A window is cut where one item ends and the next begins; a cut is right
exactly when `[` + window + `]` is a JSON array, because a cut inside an item leaves a string or a brace open.
Small bodies are split in the server's process, large ones in a child (`split_child.py`).
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from standby.errors import ApiError, invalid
from standby.records import Slice, pack_plan_entry
from standby.wire.envelope import CUSTOM_ID, NOT_JSON, duplicate_fault, envelope_fault, item_fault, size_fault

WINDOW = 4 << 20
RUN_BYTES = 2 << 20
RUNS_A_BATCH = 400
RUN_ITEMS_MIN, RUN_ITEMS_MAX = 16, 256
BYTES_A_TOKEN = 4
TRIES = 8

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
    """What the child answers: the size and runs of the plan it wrote, or the fault of the body."""

    size: int = 0
    runs: list[tuple[int, int]] = []
    fault: str | None = None

    def slices(self) -> tuple[Slice, ...]:
        """The runs as records."""
        return tuple(Slice(first=first, count=count) for first, count in self.runs)


def split(items: Path, plan: Path, *, max_items: int) -> SplitResult:
    """Check the envelope of the body in `items` and write its plan; the fault is in the result, never raised."""
    lengths = array("I")
    try:
        with items.open("rb") as body, plan.open("wb") as file:
            for packed, length in plan_of(body, max_items=max_items):
                file.write(packed)
                lengths.append(length)
    except ApiError as fault:
        return SplitResult(fault=fault.message)
    return SplitResult(size=len(lengths), runs=list(runs_of(lengths)))


def plan_of(body: BinaryIO, *, max_items: int) -> Iterator[tuple[bytes, int]]:
    """Yield (packed entry, length of its params) in submit order; raises `InvalidParams` at the first fault."""
    seen: set[str] = set()
    count = 0
    try:
        for window in windows_of(body):
            for item, offset, params in located(window, count):
                if count < max_items:
                    yield _entry(count, item, offset, params, seen)
                count += 1
    except RecursionError:
        raise invalid(f"{NOT_JSON}it is nested too deeply") from None
    if not max_items >= count > 0:
        raise invalid(size_fault(count, max_items=max_items))


def runs_of(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a plan into runs (first, count): 16 to 256 items, about 400 runs a large batch, at most 2 MiB each."""
    most = max(RUN_ITEMS_MIN, min(RUN_ITEMS_MAX, len(lengths) // RUNS_A_BATCH))
    first = count = size = 0
    for number, length in enumerate(lengths):
        if count and (count >= most or size + length > RUN_BYTES):
            yield first, count
            first, count, size = number, 0, 0
        count += 1
        size += length
    if count:
        yield first, count


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


def _entry(number: int, item: Item, offset: int, params: bytes, seen: set[str]) -> tuple[bytes, int]:
    custom_id = item.custom_id
    if not CUSTOM_ID.fullmatch(custom_id) or not params.startswith(b"{"):
        raise invalid(item_fault(number, msgspec.json.encode(item)))
    if custom_id in seen:
        raise invalid(duplicate_fault(custom_id))
    seen.add(custom_id)
    length = len(params)
    packed = pack_plan_entry(offset, length, number, 0, length // BYTES_A_TOKEN, 0, zlib.crc32(params), custom_id)
    return packed, length


def _fault_of_whole(body: BinaryIO) -> str:
    """Decode a body that is no create at once, to say what is wrong with it; memory is the body's size at most."""
    body.seek(0)
    return envelope_fault(body.read())
