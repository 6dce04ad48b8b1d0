"""What a script makes of one request: its cue, and the error that the cue asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from standby.emulation.cue import PLAIN, Cue
from standby.errors import EngineError, Failure, InvalidParams, StandbyError

STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""HTTP status of each error type that a row can have (contract 2.7.2 and 6.1)."""

MESSAGES = {
    "invalid_request_error": "The script refuses this request.",
    "authentication_error": "API key is invalid.",
    "billing_error": "There is an issue with your billing details. Please update your payment information.",
    "permission_error": "Your API key does not have permission to use the specified resource.",
    "not_found_error": "The requested resource could not be found.",
    "rate_limit_error": "This request would exceed your rate limit. Please try again later.",
    "api_error": "Internal server error",
    "timeout_error": "Request timed out",
    "overloaded_error": "Overloaded",
}

_FAILURES = {
    "overloaded_error": Failure.OVERLOADED,
    "rate_limit_error": Failure.OVERLOADED,
    "timeout_error": Failure.TIMEOUT,
}
"""Other types are `BROKEN`."""


class Cues(Protocol):
    """A script."""

    def cue(self, *, custom_id: str, model: str, text: Callable[[], str], header: str) -> Cue:
        """Say what to do with a request; raises `InvalidParams` if `header` cannot be read.

        `custom_id` is empty for a live request, `model` is the name that the request gave, `text` returns the text of
        its last turn, and `header` is what `standby-simulate` asked for, empty if it was not sent.
        """
        ...


class NoScript:
    """Leaves everything to the simulator."""

    def cue(self, *, custom_id: str, model: str, text: Callable[[], str], header: str) -> Cue:  # noqa: ARG002 - see above
        """Say nothing."""
        return PLAIN


def error_of(cue: Cue, *, attempt: int, is_live: bool) -> StandbyError | None:
    """Return what to raise at this attempt (from 1), if the cue wants an error.

    An error for good is the request's own: an errored row, or a live request's answer. One that passes is an engine's,
    so that the item is tried again; a live client gets it as it is and tries again itself.
    """
    if not cue.error or (cue.times is not None and attempt > cue.times):
        return None
    message = cue.message or MESSAGES.get(cue.error, "The script wants this error.")
    if cue.times is None or is_live:
        return InvalidParams(STATUSES.get(cue.error, 400), cue.error, message)
    return EngineError(_FAILURES.get(cue.error, Failure.BROKEN), message)
