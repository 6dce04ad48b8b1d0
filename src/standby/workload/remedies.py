"""Why a row has no good answer, in plain words, and what to do about it. Pure.

A cause is one of `outcomes`: how a batch ended for the row, the type of its error, or why its answer stopped.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What happened to a row, and what its owner can do; `{output}` stands for the job."""

    why: str
    todo: str


AGAIN = "standby retry {output}"
_PASSES = f"send them again: {AGAIN}"
_MENDED = f"mend that, then: {AGAIN}"

REMEDIES: Mapping[str, Remedy] = {
    "expired": Remedy(why="the batch expired before they ran; not charged", todo=_PASSES),
    "overloaded_error": Remedy(why="the service was overloaded", todo=_PASSES),
    "api_error": Remedy(why="the service failed", todo=_PASSES),
    "timeout_error": Remedy(why="the service took too long", todo=_PASSES),
    "rate_limit_error": Remedy(why="the service had no room for them", todo=_PASSES),
    "canceled": Remedy(
        why="the batch was canceled before they ran; not charged", todo="run them as a job of their own"
    ),
    "missing": Remedy(
        why="the service gave no result for them, or no longer has it",
        todo="they may have been charged: look at the batch in the service's console before you run them again",
    ),
    "max_tokens": Remedy(
        why="the answer was cut at --max-tokens", todo="twice the room: standby retry --more-room {output}"
    ),
    "refusal": Remedy(
        why="the model declined to answer",
        todo="change the prompt or leave these rows out; asked again it declines again",
    ),
    "schema": Remedy(
        why="the answer is not what --schema asks for",
        todo="allow more in the schema, or say in the prompt what each property means",
    ),
    "pause_turn": Remedy(
        why="the model paused in a long turn of tool calls", todo="allow fewer uses of server tools in one request"
    ),
    "model_context_window_exceeded": Remedy(
        why="prompt and answer together are longer than the model's context",
        todo="shorten these rows, or take a model with a longer context",
    ),
    "invalid_request_error": Remedy(
        why="the service refuses these requests", todo="mend the rows or parameters that it names"
    ),
    "request_too_large": Remedy(why="these requests are too large for the service", todo="shorten these rows"),
    "not_found_error": Remedy(
        why="the service does not know the model, or a file that they name", todo="check -m and the names of files"
    ),
    "authentication_error": Remedy(why="the key was not taken", todo=_MENDED),
    "permission_error": Remedy(why="the key may not do this", todo=_MENDED),
    "billing_error": Remedy(why="the account has no credit left", todo=_MENDED),
}
UNKNOWN = Remedy(why="", todo="see the words of the service in the column `error` of the output")


def remedy(cause: str, output: str) -> Remedy:
    """Look a cause up; one that nobody knows yet points to the service's own words."""
    found = REMEDIES.get(cause, UNKNOWN)
    return Remedy(why=found.why, todo=found.todo.replace("{output}", shlex.quote(output)))
