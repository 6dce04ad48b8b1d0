"""Sort prompts so that each shares the most with the one before it, in little memory. Pure but for `text_of`.

Of each prompt a chain of hashes is kept, each for the prompt up to a mark; prompts with equal hashes go the same way
down a tree, and only where they part are their next few bytes read again and compared. The order is that of a walk
through the radix tree of all prompts: no other order shares more (scheduling, section 2, RadixAttention).
"""

from __future__ import annotations

import functools
import itertools
from array import array
from collections.abc import Callable, Iterable, Sequence

MARKS = (64, 256, 1024)
"""Where the first hashes of a prompt end, in bytes; from the last on they follow each other at the same distance."""
STEP = MARKS[-1]


class Chains:
    """The hashes of many prompts, 40 bytes for a prompt of 2,400."""

    def __init__(self) -> None:
        """Begin with none."""
        self._hashes = array("q")
        self._starts = array("Q", [0])

    def __len__(self) -> int:
        """Count prompts."""
        return len(self._starts) - 1

    def columns(self) -> Iterable[array[int]]:
        """Return what it holds."""
        return self._hashes, self._starts

    def add(self, text: bytes, kind: int) -> None:
        """Add the chain of one more prompt; hashes hold inside one process."""
        hashes, digest, start = self._hashes, kind, 0
        for mark in _marks(len(text) // MARKS[0]):
            digest = hash((digest, text[start:mark]))
            hashes.append(digest)
            start = mark
        self._starts.append(len(hashes))

    def are_alike(self, one: int, other: int) -> bool:
        """Whether two prompts reach the first mark and are equal up to there."""
        first, second = self._starts[one], self._starts[other]
        return (
            first < self._starts[one + 1]
            and second < self._starts[other + 1]
            and self._hashes[first] == self._hashes[second]
        )

    def parted(self, prompts: Iterable[int], level: int) -> list[list[int]]:
        """Part prompts by their hash up to a mark; those that end before it stand alone."""
        hashes, starts = self._hashes, self._starts
        parts: dict[int, list[int]] = {}
        for prompt in prompts:
            place = starts[prompt] + level
            key = hashes[place] if place < starts[prompt + 1] else _ALONE - prompt
            if key in parts:
                parts[key].append(prompt)
            else:
                parts[key] = [prompt]
        return list(parts.values())


_ALONE = -(1 << 64)
"""Below every hash: a key for a prompt of its own."""


def sorted_by_prefix(chains: Chains, text_of: Callable[[int], bytes]) -> tuple[array[int], array[int]]:
    """Return the prompts' numbers in order, and of each how many bytes it shares with the one before it.

    Prompts that do not share their first 64 bytes keep the order in which they were added. `text_of` is asked again for
    prompts that share more.
    """
    order, shared = array("I"), array("I")
    ahead = [(members, 0, 0) for members in reversed(chains.parted(range(len(chains)), 0))]
    while ahead:
        members, level, common = ahead.pop()
        if len(members) == 1:
            order.append(members[0])
            shared.append(common)
        else:
            level, parts = _next_parting(chains, members, level + 1)
            ahead += _in_order(parts, level, common, text_of)
    return order, shared


def in_submit_order(chains: Chains, text_of: Callable[[int], bytes]) -> tuple[array[int], array[int]]:
    """Leave the prompts as they came, and count what each shares with the one before it."""
    shared = array("I", [0] * len(chains))
    for prompt in range(1, len(chains)):
        if chains.are_alike(prompt - 1, prompt):
            shared[prompt] = common_bytes(text_of(prompt - 1), text_of(prompt))
    return array("I", range(len(chains))), shared


def common_bytes(one: bytes, other: bytes) -> int:
    """Count the bytes with which both begin."""
    size = min(len(one), len(other))
    for start in range(0, size, STEP):
        stop = min(start + STEP, size)
        a, b = int.from_bytes(one[start:stop], "little"), int.from_bytes(other[start:stop], "little")
        if a != b:
            lowest = (a ^ b) & -(a ^ b)
            return start + (lowest.bit_length() - 1) // 8
    return size


@functools.lru_cache(maxsize=1024)
def _marks(lines: int) -> Sequence[int]:
    """Return the marks in a prompt of so many times 64 bytes."""
    size = lines * MARKS[0]
    return [*(mark for mark in MARKS if mark <= size), *range(2 * STEP, size + 1, STEP)]


def _mark(level: int) -> int:
    return MARKS[level] if level < len(MARKS) else STEP * (level - len(MARKS) + 2)


def _next_parting(chains: Chains, members: list[int], level: int) -> tuple[int, list[list[int]]]:
    """Go on until not all prompts have the same hash; return that level and the parts."""
    while len(parts := chains.parted(members, level)) == 1:
        level += 1
    return level, parts


def _in_order(
    parts: list[list[int]], level: int, common: int, text_of: Callable[[int], bytes]
) -> list[tuple[list[int], int, int]]:
    """Sort parts by the bytes in which they differ; last first, each with what it shares with the one before it."""
    start, stop = _mark(level - 1), _mark(level)
    seen = sorted((text_of(part[0])[start:stop], part) for part in parts)
    found = [(seen[0][1], level, common)]
    for (before, _), (after, part) in itertools.pairwise(seen):
        found.append((part, level, start + common_bytes(before, after)))
    found.reverse()
    return found
