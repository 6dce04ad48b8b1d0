"""What is known of Claude's models that their own API does not tell (contract 9.1). Of other models nothing is claimed.

A test holds it against the catalogue of the simulator.
"""

from __future__ import annotations

import re

_LEAST_CACHED = {
    512: "fable-5-2 mythos-5-2 fable-5-1 mythos-5-1 fable-5 mythos-5 opus-5-5 opus-5 sonnet-5-5 haiku-5-5",
    1_024: "opus-4-8 sonnet-5 sonnet-4-6 sonnet-4-5 opus-4-1 opus-4 sonnet-4",
    2_048: "mythos-preview opus-4-7 3-5-haiku",
    4_096: "opus-4-6 opus-4-5 haiku-4-5",
}
_LEAST = {f"claude-{name}": least for least, names in _LEAST_CACHED.items() for name in names.split()}
_SAMPLES = frozenset(
    {f"claude-{name}" for name in ("sonnet-4-6", "opus-4-6", "opus-4-5", "haiku-4-5", "sonnet-4-5")}
    | {f"claude-{name}" for name in ("opus-4-1", "opus-4", "sonnet-4", "3-7-sonnet", "3-5-haiku")}
)
_DATE = re.compile(r"-(\d{8}|latest|0)$")


def least_cached(model: str) -> int | None:
    """Return the tokens from which on a prefix is cached at all; None if that is not known."""
    return _LEAST.get(_plain(model))


def takes_sampling(model: str) -> bool | None:
    """Whether `temperature`, `top_p` and `top_k` may be set at all under the older API version; None: not known."""
    name = _plain(model)
    return name in _SAMPLES if name in _LEAST or name in _SAMPLES else None


def _plain(model: str) -> str:
    return _DATE.sub("", model)
