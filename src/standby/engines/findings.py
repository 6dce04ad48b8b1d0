"""What was found out about an endpoint, and how: the answer of `standby engines probe`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from standby.engines.base import Model

How = Literal["asked", "tried", "set", "assumed"]
"""The engine said so; it was seen to do so; the settings say so; engines of its kind do so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found out; None if it could not be."""

    value: str | int | float | bool | None
    how: How
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found out about an endpoint; a field is None if nobody looked."""

    url: str
    reachable: Finding
    model: str = ""
    """The one that was tried."""
    models: tuple[Model, ...] = ()
    engine: Finding | None = None
    version: Finding | None = None
    slots: Finding | None = None
    cache: Finding | None = None
    cached_tokens: Finding | None = None
    priority: Finding | None = None
    counts_tokens: Finding | None = None
    json_schema: Finding | None = None
    tools: Finding | None = None
    images: Finding | None = None
    prefill: Finding | None = None
    names_stops: Finding | None = None
    metrics: Finding | None = None
    prefill_tokens_s: Finding | None = None
    decode_tokens_s: Finding | None = None

    def found(self) -> list[tuple[str, Finding]]:
        """List the findings by name, in the order in which they are best read."""
        pairs = [(entry.name, getattr(self, entry.name)) for entry in fields(self)]
        return [(name, value) for name, value in pairs if isinstance(value, Finding)]


def as_json(findings: Findings) -> dict[str, Any]:
    """Write findings as plain values, for scripts."""
    models = [
        {"id": m.id, "max_input_tokens": m.max_input_tokens, "features": sorted(m.features)} for m in findings.models
    ]
    shown = {name: {"value": one.value, "how": one.how, "note": one.note} for name, one in findings.found()}
    return {"url": findings.url, "model": findings.model, "models": models, **shown}
