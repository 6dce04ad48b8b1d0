"""Which models the simulator plays."""

from __future__ import annotations

from standby.engines.base import Model
from standby.errors import unknown_model
from standby.records import SECOND
from standby.wire.models import FEATURES

NAME = "simulated"
CLAUDES = (
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-fable-5-1",
    "claude-opus-5-5",
    "claude-mythos-5-1",
    "claude-sonnet-5",
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-5-20251101",
    "claude-sonnet-4-5-20250929",
)
ALIASES = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
CREATED_US = 1_767_225_600 * SECOND
MAX_INPUT = 1_000_000
MAX_OUTPUT = 128_000

_LISTED = frozenset((*CLAUDES, NAME))


def resolved(model: str) -> str:
    """Return the id of a name: any name of Claude is served, one that is not listed keeps its name."""
    if model in _LISTED:
        return model
    if model.startswith("claude-"):
        return ALIASES.get(model, model)
    raise unknown_model(model)


def model_called(name: str) -> Model:
    """Describe a model."""
    return Model(
        id=name,
        display_name=name.replace("-", " ").title(),
        created_us=CREATED_US,
        max_input_tokens=MAX_INPUT,
        max_output_tokens=MAX_OUTPUT,
        features=FEATURES,
    )
