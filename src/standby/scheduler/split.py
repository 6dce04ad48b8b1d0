"""Find the items in a create's body without ever holding it: windows of bytes in, plan entries out.

The body may have 256 MB and 100,000 items. A window is cut where one item ends and the next begins; a cut is right
exactly when `[` + window + `]` is a JSON array, because a cut inside an item leaves a string or a brace open.
Small bodies are split in the server's process; large ones in a child (`python -m standby.scheduler.split`), because
decoding holds the interpreter.
"""

from __future__ import annotations

import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from standby.errors import ApiError, invalid
from standby.records import PlanEntry, Slice, pack_entry
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
_GAP = re.compile(rb"[\s,]*")
_BYTE = re.compile(r"\(byte (\d+)\)")
_array = msgspec.json.Decoder(list[msgspec.Raw])


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_item = msgspec.json.Decoder(_Item)


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
    try:
        with items.open("rb") as body:
            entries = list(_packed(plan_of(body, max_items=max_items)))
    except ApiError as fault:
        return SplitResult(fault=fault.message)
    with plan.open("wb") as file:
        file.writelines(packed for packed, _ in entries)
    return SplitResult(size=len(entries), runs=list(runs_of([length for _, length in entries])))


def plan_of(body: BinaryIO, *, max_items: int) -> Iterator[PlanEntry]:
    """Yield the entries of the plan in submit order; raises `InvalidParams` at the first fault of the envelope."""
    seen: set[str] = set()
    count = 0
    try:
        for offset, raw in items_of(body):
            if count < max_items:
                yield _entry(count, offset, raw, seen)
            count += 1
    except RecursionError:
        raise invalid(f"{NOT_JSON}it is nested too deeply") from None
    if not max_items >= count > 0:
        raise invalid(size_fault(count, max_items=max_items))


def runs_of(lengths: list[int]) -> Iterator[tuple[int, int]]:
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


def items_of(body: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of every element of `requests`; raises `InvalidParams` if the body has another shape."""
    window = body.read(WINDOW)
    head = _HEAD.match(window)
    if head is None:
        raise invalid(_fault_of_whole(body))
    offset, window = head.end(), window[head.end() :]
    while True:
        more = body.read(max(WINDOW, len(window)))
        window += more
        cut, raws = _cut_inside(window) if more else _cut_at_end(window, body)
        yield from _placed(window[:cut], offset, raws)
        if not more:
            return
        offset, window = offset + cut, window[cut:]


def _cut_inside(window: bytes) -> tuple[int, list[msgspec.Raw]]:
    """Return where the last whole item that can be found ends, and the items before it; (0, []) asks for more bytes."""
    for cut in _candidates(window):
        try:
            return cut, _array.decode(b"[" + window[:cut].rstrip(b", \t\r\n") + b"]")
        except msgspec.DecodeError as error:
            place = _BYTE.search(str(error))
            if place and int(place[1]) < len(window[:cut].rstrip(b", \t\r\n")):
                raise invalid(f"{NOT_JSON}{error}") from None
    return 0, []


def _candidates(window: bytes) -> list[int]:
    """Places where something that looks like an item begins, last first, from the end of the window only."""
    reach = 1 << 16
    while True:
        start = max(0, len(window) - reach)
        found = [match.end() for match in _BETWEEN.finditer(window, start)]
        if found or start == 0:
            return found[: -TRIES - 1 : -1]
        reach *= 8


def _cut_at_end(window: bytes, body: BinaryIO) -> tuple[int, list[msgspec.Raw]]:
    end = window.rfind(b"]")
    if end < 0 or not _TAIL.match(window, end):
        raise invalid(_fault_of_whole(body))
    try:
        return end, _array.decode(b"[" + window[:end] + b"]")
    except msgspec.DecodeError:
        raise invalid(_fault_of_whole(body)) from None


def _placed(window: bytes, offset: int, raws: list[msgspec.Raw]) -> Iterator[tuple[int, bytes]]:
    try:
        window.decode()
    except UnicodeDecodeError:
        raise invalid(f"{NOT_JSON}it is not UTF-8") from None
    place = 0
    for raw in raws:
        gap = _GAP.match(window, place)
        assert gap is not None
        place = gap.end()
        item = bytes(raw)
        assert window.startswith(item, place), "an item lies where the last one ended"
        yield offset + place, item
        place += len(item)


def _entry(number: int, offset: int, raw: bytes, seen: set[str]) -> PlanEntry:
    custom_id = _custom_id(number, raw)
    if custom_id in seen:
        raise invalid(duplicate_fault(custom_id))
    seen.add(custom_id)
    return PlanEntry(
        item=number,
        offset=offset,
        length=len(raw),
        group=0,
        cost=len(raw) // BYTES_A_TOKEN,
        crc=zlib.crc32(raw),
        custom_id=custom_id,
    )


def _custom_id(number: int, raw: bytes) -> str:
    try:
        item = _item.decode(raw)
        custom_id = msgspec.json.decode(item.custom_id) if item.custom_id is not msgspec.UNSET else None
    except msgspec.DecodeError:
        raise invalid(item_fault(number, raw)) from None
    if not isinstance(custom_id, str) or not CUSTOM_ID.fullmatch(custom_id) or not _is_object(item.params):
        raise invalid(item_fault(number, raw))
    return custom_id


def _is_object(raw: msgspec.Raw | msgspec.UnsetType) -> bool:
    return raw is not msgspec.UNSET and bytes(memoryview(raw)[:1]) == b"{"


def _fault_of_whole(body: BinaryIO) -> str:
    """Decode a body that is no create at once, to say what is wrong with it; memory is the body's size at most."""
    body.seek(0)
    return envelope_fault(body.read())


def _packed(entries: Iterable[PlanEntry]) -> Iterator[tuple[bytes, int]]:
    for entry in entries:
        yield pack_entry(entry), entry.length


def main(arguments: list[str]) -> None:
    """`ITEMS PLAN MAX_ITEMS`: split, and print the result as JSON."""
    os.nice(5)
    items, plan, max_items = arguments
    result = split(Path(items), Path(plan), max_items=int(max_items))
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main(sys.argv[1:])
