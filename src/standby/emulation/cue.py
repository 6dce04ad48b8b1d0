"""What a script tells the simulator to do with one request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from standby.errors import ROW_ERRORS

ERROR_TYPES = ROW_ERRORS
"""What a script can make of an item; live requests get them, too."""
STOP_REASONS = (
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
)
"""How an answer may end (contract 3.4)."""
NEVER = math.inf
"""`after_s` of a request that is never answered: in a batch it expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A part that is left out lets the simulator do as it would."""

    after_s: float = 0.0
    """Time before anything else happens, on the simulator's clock; `NEVER` is for ever."""
    error: str = ""
    """One of the API's error types (contract 2.7.2, 6.1): the answer is this error."""
    message: str = ""
    """Of the error."""
    times: int | None = None
    """Tries that fail with `error` before the request is answered after all; None: all of them, so an item of a batch
    becomes an errored row at once."""
    stop: str = ""
    """A stop reason (contract 3.4) that the answer ends with."""
    text: str | None = None
    """What it says."""
    tool: str = ""
    """A tool that it calls, with an input that fits the tool's schema or is `input`."""
    input: dict[str, Any] | None = None


PLAIN = Cue()
