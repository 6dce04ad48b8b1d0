"""Which models the simulator plays: Claude's, and one called `simulated`."""

from __future__ import annotations

from functools import lru_cache

from standby.engines.base import Model
from standby.errors import unknown_model
from standby.records import SECOND
from standby.wire.claude import CHECKED, find, served
from standby.wire.models import FEATURES

NAME = "simulated"
CLAUDES = tuple(claude.id for claude in served(CHECKED))
"""What is listed, newest first. Any other name of Claude answers too, but for those of models that are retired."""
ALIASES = {alias: claude.id for claude in served(CHECKED) for alias in claude.aliases}
CREATED_US = 1_767_225_600 * SECOND
MAX_INPUT = 1_000_000
MAX_OUTPUT = 128_000


@lru_cache(maxsize=1024)
def resolved(model: str) -> str:
    """Return the id of a name: any name of Claude is served, one that nobody knows keeps its name.

    Raises `InvalidParams` for other names, and for models that were retired on the day of the catalogue.
    """
    claude = find(model)
    if claude is not None and claude.lifecycle(CHECKED) == "retired":
        raise unknown_model(model)
    if claude is not None:
        return claude.id
    if model == NAME or model.startswith("claude-"):
        return model
    raise unknown_model(model)


@lru_cache(maxsize=1024)
def context_of(model: str) -> int:
    """Return the length of a model's context, in tokens."""
    claude = find(model)
    return claude.max_input_tokens if claude is not None else MAX_INPUT


def listed() -> list[Model]:
    """List all models, newest first."""
    claudes = [
        Model(
            id=claude.id,
            display_name=claude.display_name,
            created_us=claude.created_us,
            max_input_tokens=claude.max_input_tokens,
            max_output_tokens=claude.max_output_tokens,
            features=claude.features,
        )
        for claude in served(CHECKED)
    ]
    own = Model(
        id=NAME,
        display_name="Simulated",
        created_us=CREATED_US,
        max_input_tokens=MAX_INPUT,
        max_output_tokens=MAX_OUTPUT,
        features=FEATURES,
    )
    return sorted([*claudes, own], key=lambda model: -model.created_us)
