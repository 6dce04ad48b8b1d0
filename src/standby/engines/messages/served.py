"""What a Messages server serves, and under which names. Pure.

Two shapes of `/v1/models` are met: the contract's own (section 5), whose server resolves names itself, and the list of
chat-completions servers that also have a `/v1/messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from standby.config import EngineSettings
from standby.engines.base import Model
from standby.engines.chat.resolve import resolve_name
from standby.errors import EngineError, Failure, unknown_model
from standby.records import SECOND
from standby.wire.models import FEATURES

OWN_ALIASES = EngineSettings().aliases
"""The aliases that stand there if nobody set any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server's list."""

    models: tuple[Model, ...]
    resolves: bool
    """Whether the server knows names of its own: `GET /v1/models/NAME` answers."""


def is_contracts(listed: Any) -> bool:
    """Whether a first page of `/v1/models` has the contract's shape rather than that of chat-completions."""
    if not isinstance(listed, dict):
        return False
    data = listed.get("data")
    if isinstance(data, list) and data:
        return all(isinstance(entry, dict) and entry.get("type") == "model" for entry in data)
    return "has_more" in listed and "object" not in listed


def read_models(pages: list[Any]) -> Served:
    """Read all pages; raises `EngineError` if they are no list of models."""
    try:
        entries = [entry for page in pages for entry in page["data"] or () if isinstance(entry["id"], str)]
        resolves = all(map(is_contracts, pages))
        models = [_of_contract(entry) if resolves else _of_chat(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise EngineError(Failure.BROKEN, "the engine's list of models cannot be read") from None
    return Served(models=tuple(models), resolves=resolves)


def named(name: str) -> Served:
    """Return what is served where nobody lists anything: the model that the settings name, or whatever is asked for."""
    models = (Model(id=name, display_name=name, created_us=0, max_input_tokens=0, max_output_tokens=0),) if name else ()
    return Served(models=models, resolves=False)


def resolve_here(name: str, served: Served, aliases: tuple[str, ...]) -> str:
    """Resolve a name by the list and the settings; raises `unknown_model`.

    In front of a server that resolves names itself the default alias (`claude-*`) does not count: it would answer for
    a Claude model with whichever is newest. Where nothing is listed, a name that an alias fits stands for itself.
    """
    if served.resolves and aliases == OWN_ALIASES:
        aliases = ()
    if not served.models and not served.resolves:
        return _unlisted(name, aliases)
    return resolve_name(name, served.models, aliases)


def _unlisted(name: str, aliases: tuple[str, ...]) -> str:
    for alias in aliases:
        pattern, _, target = (part.strip() for part in alias.partition("="))
        if fnmatchcase(name, pattern):
            return target or name
    raise unknown_model(name)


def _of_contract(entry: dict[str, Any]) -> Model:
    return Model(
        id=entry["id"],
        display_name=str(entry.get("display_name") or entry["id"]),
        created_us=_microseconds(entry.get("created_at")),
        max_input_tokens=int(entry.get("max_input_tokens") or 0),
        max_output_tokens=int(entry.get("max_tokens") or 0),
        features=_features(entry.get("capabilities")),
    )


def _features(capabilities: Any) -> frozenset[str]:
    if not isinstance(capabilities, dict):
        return frozenset()
    leaves = {name: capabilities.get(name) for name in FEATURES}
    return frozenset(name for name, leaf in leaves.items() if isinstance(leaf, dict) and leaf.get("supported") is True)


def _of_chat(entry: dict[str, Any]) -> Model:
    meta = entry.get("meta")
    context = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None) or 0
    return Model(
        id=entry["id"],
        display_name=entry["id"],
        created_us=int(entry.get("created") or 0) * SECOND,
        max_input_tokens=int(context),
        max_output_tokens=int(context),
    )


def _microseconds(timestamp: Any) -> int:
    if not isinstance(timestamp, str):
        return 0
    return int(datetime.fromisoformat(timestamp).timestamp() * SECOND)
