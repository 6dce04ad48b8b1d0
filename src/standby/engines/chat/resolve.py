"""Which of the served models answers for a name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from standby.engines.base import Model
from standby.errors import unknown_model


def resolve_name(model: str, served: Sequence[Model], aliases: Sequence[str]) -> str:
    """Return the id that serves requests for `model`: itself, or what the first alias that fits says.

    An alias is a pattern (`claude-*`: the first model served) or `pattern=model`: that one, if it is served.
    Raises `unknown_model`.
    """
    ids = [one.id for one in served]
    if model in ids:
        return model
    for alias in aliases:
        pattern, names, target = (part.strip() for part in alias.partition("="))
        if not fnmatchcase(model, pattern):
            continue
        if names and target in ids:
            return target
        if not names and ids:
            return ids[0]
    raise unknown_model(model)
