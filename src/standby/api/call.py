"""What is known about one HTTP request while it is answered; it travels in the ASGI scope."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import Scope

from standby.records import Principal, Rules, WorkspaceId

UNKNOWN_ROUTE = "unknown"
_PLACE = "standby.call"


@dataclass(slots=True, kw_only=True)
class Call:
    """Filled in as the request walks inwards; read by the front when the answer leaves."""

    request_id: str
    route: str = UNKNOWN_ROUTE
    workspace_id: WorkspaceId | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that every answer to this request gets, an error as well."""
    is_stored: bool = False
    """A batch was accepted: whatever fails from here on must not be repeated (contract 6.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks and under which rules."""

    principal: Principal
    rules: Rules

    @property
    def workspace_id(self) -> WorkspaceId:
        """The only workspace that this request may see."""
        return self.principal.workspace_id


def call_of(scope: Scope) -> Call:
    """Find the call that the front put into the scope."""
    call: Call = scope[_PLACE]
    return call


def attach(scope: Scope, call: Call) -> None:
    """Put the call into the scope."""
    scope[_PLACE] = call
