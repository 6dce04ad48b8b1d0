"""The headers that choose the rules of a request: version, betas, workspace, user profile (contract 1.1)."""

from __future__ import annotations

from starlette.datastructures import Headers

from standby.config import ServerSettings
from standby.emulation.script import rules_of_line
from standby.errors import ApiError, ScriptError, invalid
from standby.records import Rules, WorkspaceId

DEFAULT_VERSION = "2023-06-01"
VERSIONS = frozenset({"2023-01-01", DEFAULT_VERSION, "2026-10-21"})
BETAS = frozenset(
    {
        "message-batches-2024-09-24",
        "prompt-caching-2024-07-31",
        "extended-cache-ttl-2025-04-11",
        "token-counting-2024-11-01",
        "pdfs-2024-09-25",
        "token-efficient-tools-2025-02-19",
        "cache-diagnosis-2026-04-07",
        "output-300k-2026-03-24",
        "oauth-2025-04-20",  # which the SDK sends with every token that is no API key
    }
)
"""Values that `strict_betas` lets pass."""


SIMULATE = "standby-simulate"


def rules_of(headers: Headers, settings: ServerSettings, *, is_simulated: bool = False) -> Rules:
    """Read the rules; `ApiError` 400 for a version that does not exist, or whatever a strict switch forbids.

    Only the simulator heeds `standby-simulate`; with another engine the header means nothing.
    """
    return Rules(
        version=version_of(headers, is_strict=settings.strict_version),
        betas=betas_of(headers, is_strict=settings.strict_betas),
        user_profile_id=headers.get("anthropic-user-profile-id", "").strip() or None,
        simulate=simulate_of(headers) if is_simulated else "",
    )


def simulate_of(headers: Headers) -> str:
    """Read the script of this request; `ApiError` 400 that shows what is wrong with it."""
    line = "; ".join(headers.getlist(SIMULATE))
    try:
        rules_of_line(line)
    except ScriptError as error:
        raise invalid(f"{SIMULATE}: {error}") from None
    return line


def version_of(headers: Headers, *, is_strict: bool) -> str:
    """Read `anthropic-version`; a doubled header is as wrong as an unknown value."""
    value = ", ".join(part.strip() for part in headers.getlist("anthropic-version"))
    if not value:
        if is_strict:
            raise invalid("anthropic-version: header is required")
        return DEFAULT_VERSION
    if value not in VERSIONS:
        raise invalid(f'anthropic-version: "{value}" is not a valid version')
    return value


def betas_of(headers: Headers, *, is_strict: bool) -> tuple[str, ...]:
    """Join all `anthropic-beta` headers, then split; the order stays, doubles go."""
    parts = ",".join(headers.getlist("anthropic-beta")).split(",")
    betas = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    unknown = [beta for beta in betas if beta not in BETAS]
    if is_strict and unknown:
        shown = ", ".join(f"`{beta}`" for beta in unknown)
        raise invalid(f"Unexpected value(s) {shown} for the `anthropic-beta` header.")
    return betas


def check_workspace(headers: Headers, workspace_id: WorkspaceId) -> None:
    """Refuse a call that names another workspace than its credential opens."""
    named = headers.get("anthropic-workspace-id", "").strip()
    if named and named != workspace_id:
        raise ApiError(
            403,
            "permission_error",
            "anthropic-workspace-id: this credential belongs to another workspace. Leave the header out or correct it.",
        )
