"""Numbers between bounds, digit by digit. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from standby.wire.grammar.language import NOTHING, Literal, Node, alt, chars, maybe, repeat, seq

LARGEST = 10**15 - 1
"""Larger whole numbers are not written unless a bound asks for them: beyond it a double is not exact."""
MOST_DIGITS = 30
FINEST = 9
"""Digits behind the point that a bound may have."""
Row = tuple[tuple[int, int], ...]
"""Digit ranges of numbers of one length."""

DIGIT = chars((0x30, 0x39))
WHOLE = seq(maybe(Literal("-")), alt(Literal("0"), seq(chars((0x31, 0x39)), repeat(DIGIT, 0, len(str(LARGEST)) - 1))))
FRACTION = seq(WHOLE, maybe(seq(Literal("."), repeat(DIGIT, 1, 15))))


def whole(low: Decimal | None, high: Decimal | None) -> Node:
    """Whole numbers from `low` to `high`, both included; `NOTHING` if there is none."""
    if low is None and high is None:
        return WHOLE
    first, last = _reach(low, high)
    return _signed(int(first.to_integral_value(ROUND_CEILING)), int(last.to_integral_value(ROUND_FLOOR)), 0)


def real(low: Decimal | None, high: Decimal | None, *, above: bool, below: bool) -> Node:
    """Numbers from `low` to `high`; `above` and `below` leave the bound itself out. Written with fixed digits."""
    if low is None and high is None:
        return FRACTION
    places = min(FINEST, max(2, *(_places(bound) + 1 for bound in (low, high) if bound is not None)))
    first, last = _reach(low, high)
    scale = Decimal(10) ** places
    fine = _signed(_ceil(first * scale, above=above), -_ceil(-last * scale, above=below), places)
    return alt(_signed(_ceil(first, above=above), -_ceil(-last, above=below), 0), fine)


def _reach(low: Decimal | None, high: Decimal | None) -> tuple[Decimal, Decimal]:
    if low is not None and high is not None:
        return low, high
    first = low if low is not None else min(-Decimal(LARGEST), high or Decimal(0))
    return first, high if high is not None else max(Decimal(LARGEST), first)


def _places(bound: Decimal) -> int:
    exponent = bound.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _ceil(value: Decimal, *, above: bool) -> int:
    whole_value = int(value.to_integral_value(ROUND_CEILING))
    return whole_value + 1 if above and whole_value == value else whole_value


def _signed(low: int, high: int, places: int) -> Node:
    """Numbers between two whole ones, with a point before the last `places` digits."""
    ways = [_written(row, places) for row in _rows(max(low, 0), high, places)] if high >= 0 else []
    if low < 0:
        minus = [_written(row, places) for row in _rows(max(-high, 1), -low, places)]
        ways.append(seq(Literal("-"), alt(*minus)))
    return alt(*ways) if ways else NOTHING


def _written(row: Row, places: int) -> Node:
    digits = [chars((0x30 + low, 0x30 + high)) for low, high in row]
    if not places:
        return seq(*digits)
    return seq(*digits[:-places], Literal("."), *digits[-places:])


def _rows(low: int, high: int, places: int) -> Iterator[Row]:
    """Split `low` to `high` by length; all have more digits than `places`, so short ones get zeros in front."""
    shortest = places + 1
    for length in range(max(shortest, len(str(low))), max(shortest, len(str(high))) + 1):
        first = 0 if length == shortest else 10 ** (length - 1)
        begin, end = max(low, first), min(high, 10**length - 1)
        if begin <= end:
            yield from _same_length(str(begin).zfill(length), str(end).zfill(length))


def _same_length(low: str, high: str) -> Iterator[Row]:
    if low == high:
        yield tuple((int(d), int(d)) for d in low)
        return
    if set(low) == {"0"} and set(high) == {"9"}:
        yield ((0, 9),) * len(low)
        return
    begin, end = int(low[0]), int(high[0])
    if begin == end:
        yield from (((begin, begin), *row) for row in _same_length(low[1:], high[1:]))
        return
    rest = len(low) - 1
    if not rest:
        yield ((begin, end),)
        return
    if set(low[1:]) != {"0"}:
        yield from (((begin, begin), *row) for row in _same_length(low[1:], "9" * rest))
        begin += 1
    last_is_full = set(high[1:]) == {"9"}
    if begin <= (end if last_is_full else end - 1):
        yield ((begin, end if last_is_full else end - 1), *((0, 9),) * rest)
    if not last_is_full:
        yield from (((end, end), *row) for row in _same_length("0" * rest, high[1:]))
