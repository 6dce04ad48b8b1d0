"""How long will an answer be? Running quantiles of the answers seen. Pure, and bounded whatever clients name."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

from standby.records import BatchId

MOST_KEYS = 4096
"""Kinds of answers that are remembered; the one that was not seen for longest goes first."""
RECENT = 16
"""Answers of a kind that are remembered."""
ENOUGH = 4
"""With fewer than so many, the next wider kind says more."""
SHARE = 0.6
"""The quantile: lengths of answers are skewed, so that their mean lies above their median (lognormal: near 0.6)."""
GUESS = 256
"""Tokens of an answer of which nothing is known, if `max_tokens` allows as many."""

_Key = tuple[Hashable, ...]


class Lengths:
    """What was seen, by batch, group and `max_tokens`, by batch and `max_tokens`, and by `max_tokens` alone."""

    def __init__(self, *, most_keys: int = MOST_KEYS) -> None:
        """Begin with nothing seen."""
        self._most_keys = most_keys
        self._seen: OrderedDict[_Key, deque[int]] = OrderedDict()

    def expected(self, batch_id: BatchId, group: int, max_tokens: int) -> int:
        """Return the tokens (1 to `max_tokens`) to expect of an answer, from the narrowest kind with enough answers."""
        for key in _kinds(batch_id, group, max_tokens):
            seen = self._seen.get(key)
            if seen is not None and len(seen) >= ENOUGH:
                return max(1, min(_quantile(seen), max_tokens))
        return max(1, min(GUESS, max_tokens))

    def saw(self, batch_id: BatchId, group: int, max_tokens: int, output_tokens: int) -> None:
        """Remember the length of an answer, in tokens."""
        for key in _kinds(batch_id, group, max_tokens):
            self._seen.setdefault(key, deque(maxlen=RECENT)).append(output_tokens)
            self._seen.move_to_end(key)
        while len(self._seen) > self._most_keys:
            self._seen.popitem(last=False)

    def __len__(self) -> int:
        """Count the kinds that are remembered."""
        return len(self._seen)


def _kinds(batch_id: BatchId, group: int, max_tokens: int) -> tuple[_Key, _Key, _Key]:
    bucket = max_tokens.bit_length()
    return (batch_id, group, bucket), (batch_id, bucket), (bucket,)


def _quantile(seen: deque[int]) -> int:
    return sorted(seen)[int(SHARE * len(seen))]
