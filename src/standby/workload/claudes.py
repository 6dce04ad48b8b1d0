"""What is known of Claude's models that their own API does not tell (contract 9.1). Of others nothing is claimed."""

from __future__ import annotations

from standby.wire.claude import find


def least_cached(model: str) -> int | None:
    """Return the tokens from which on a prefix is cached at all; None if that is not known."""
    claude = find(model)
    return None if claude is None else claude.minimum


def takes_sampling(model: str) -> bool | None:
    """Whether `temperature`, `top_p` and `top_k` may be set at all under the older API version; None: not known."""
    claude = find(model)
    return None if claude is None else claude.sampling
