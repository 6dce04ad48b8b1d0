"""A mirror of the engine's KV blocks: how much of a prompt is still in its prefix cache. Pure.

The library shares whole KV blocks between sequences but does not say how many it found. It keeps a
block under the hash of all tokens up to its end, pinned while a sequence uses it and then until
memory is needed, least recently used first. The same bookkeeping here gives the cached tokens of a
request. It is derived, not reported; `docs` say so.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from hashlib import blake2b


class Prefixes:
    """Which whole blocks are resident. Keys are chained, so a block's key stands for its whole prefix."""

    __slots__ = ("_free", "_pinned", "_private", "block", "total")

    def __init__(self, *, total: int, block: int) -> None:
        """Begin empty, with room for `total` blocks of `block` tokens."""
        self.total = total
        self.block = block
        self._pinned: Counter[bytes] = Counter()
        self._free: OrderedDict[bytes, None] = OrderedDict()
        self._private = 0

    def keys(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the key of every whole block of `tokens`."""
        found: list[bytes] = []
        previous = b""
        for start in range(0, len(tokens) - self.block + 1, self.block):
            digest = blake2b(previous, digest_size=16)
            digest.update(array("q", tokens[start : start + self.block]).tobytes())
            previous = digest.digest()
            found.append(previous)
        return found

    def cached(self, tokens: Sequence[int], keys: list[bytes]) -> int:
        """Return how many leading tokens need no computing; never all, the last one always runs."""
        return max(0, min(self.hits(keys) * self.block, len(tokens) - 1))

    def hits(self, keys: list[bytes]) -> int:
        """Return how many leading blocks are resident."""
        for number, key in enumerate(keys):
            if key not in self._pinned and key not in self._free:
                return number
        return len(keys)

    def shared(self, keys: list[bytes], *, others_than: int) -> int:
        """Return how many leading blocks are pinned more than `others_than` times (1: by others than its holder)."""
        for number, key in enumerate(keys):
            if self._pinned.get(key, 0) <= others_than:
                return number
        return len(keys)

    @property
    def pinned(self) -> int:
        """How many blocks running sequences use, each counted once."""
        return len(self._pinned)

    @property
    def used(self) -> int:
        """How many blocks running sequences use, their unfinished ends included."""
        return len(self._pinned) + self._private

    def hold(self, keys: list[bytes]) -> None:
        """Note that a sequence computed these blocks and uses them."""
        for key in keys:
            self._free.pop(key, None)
            self._pinned[key] += 1
        self._evict()

    def release(self, keys: list[bytes]) -> None:
        """Note that a sequence no longer uses these blocks: they stay until memory is needed."""
        for key in reversed(keys):
            self._pinned[key] -= 1
            if self._pinned[key] <= 0:
                del self._pinned[key]
                self._free[key] = None
        self._evict()

    def occupy(self, blocks: int) -> None:
        """Say how many blocks are in use that no key stands for (unfinished ends)."""
        self._private = blocks
        self._evict()

    def _evict(self) -> None:
        while self._free and len(self._pinned) + self._private + len(self._free) > self.total:
            self._free.popitem(last=False)
