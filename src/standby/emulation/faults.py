"""Faults of the whole server, by route: what a client must survive and its tests never meet.

A line is `PLACE=ACTIONS; PLACE=ACTIONS; …`:

    create=lost+times:1                     the batch is made, the connection breaks before the answer
    create=429+retry_after:2+times:3        three creates are told to come back later
    *=529+chance:0.3+seed:7                 about three requests in ten
    results=cut:10; POST /v1/messages=500

Places are `create`, `list`, `retrieve`, `cancel`, `delete`, `results`, `messages`, `count_tokens`, `models`, `batches`
(the first six), `*` (all of them), or a path with `*`, with or without a method. Actions, joined with `+`:

    429, 529, 500, …   answer with this status (400 to 599)
    reset              break the connection instead of looking at the request
    lost               do what is asked, then break the connection instead of answering
    cut:ROWS           send this many lines of the answer, then break off
    cut_inside:ROWS    the same, in the middle of the next line
    slow:BYTES         send the answer at this many bytes a second
    wait:TIME          begin after a time
    retry_after:TIME   of a status; message:TEXT its text
    times:N            strike N times, then never again; skip:N let N requests pass first
    chance:P           strike with this probability; seed:N makes another sequence of them

The first fault that fits a request and strikes decides, alone. Faults set later come before those of the file.
"""

from __future__ import annotations

import fnmatch
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from standby.emulation.clock import seconds_of
from standby.emulation.script import plain, shown, split
from standby.errors import ScriptError

_BATCHES = "/v1/messages/batches"
_OPERATIONS = (
    ("create", "POST", re.compile(_BATCHES)),
    ("list", "GET", re.compile(_BATCHES)),
    ("retrieve", "GET", re.compile(f"{_BATCHES}/[^/]+")),
    ("delete", "DELETE", re.compile(f"{_BATCHES}/[^/]+")),
    ("cancel", "POST", re.compile(f"{_BATCHES}/[^/]+/cancel")),
    ("results", "GET", re.compile(f"{_BATCHES}/[^/]+/results")),
    ("messages", "POST", re.compile("/v1/messages")),
    ("count_tokens", "POST", re.compile("/v1/messages/count_tokens")),
    ("models", "GET", re.compile("/v1/models(/[^/]+)?")),
)
OPERATIONS = tuple(name for name, _, _ in _OPERATIONS)
GROUPS: Mapping[str, frozenset[str]] = {
    **{name: frozenset({name}) for name in OPERATIONS},
    "batches": frozenset(OPERATIONS[:6]),
    "*": frozenset(OPERATIONS),
}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""`error.type` of a status (contract 6.1); others are `invalid_request_error` below 500, else `api_error`."""
_PATH = re.compile(r"(?:([A-Z]+) )?(/\S*)")
_KEYS = frozenset({"at", "do", "times", "skip", "chance", "seed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong where, and how often; `source` is how people wrote it."""

    source: str = ""
    operations: frozenset[str] = frozenset()
    """Empty: `method` and `path` say where."""
    method: str = ""
    path: re.Pattern[str] | None = None
    wait_s: float = 0.0
    status: int = 0
    message: str = ""
    retry_after_s: float | None = None
    is_reset: bool = False
    is_lost: bool = False
    cut_rows: int | None = None
    is_cut_inside: bool = False
    bytes_per_s: float = 0.0
    times: int | None = None
    skip: int = 0
    chance: float = 1.0
    seed: int = 0

    def fits(self, operation: str, method: str, path: str) -> bool:
        """Whether it is about this request; `operation` is empty for a path that is none."""
        if self.path is None:
            return operation in self.operations
        return self.method in {"", method} and self.path.match(path) is not None

    @property
    def error_type(self) -> str:
        """Of the answer with its status."""
        return TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")


def operation_of(method: str, path: str) -> str:
    """Name what a request is for; empty if a fault has no name for it."""
    method = "GET" if method == "HEAD" else method
    return next((name for name, verb, where in _OPERATIONS if verb == method and where.fullmatch(path)), "")


@dataclass(slots=True)
class _Armed:
    """A fault, and what it did so far."""

    fault: Fault
    seen: int = 0
    struck: int = 0
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.fault.seed)  # noqa: S311 - no secret; the same seed must strike the same again

    def strikes(self) -> bool:
        if self.fault.times is not None and self.struck >= self.fault.times:
            return False
        self.seen += 1
        if self.seen <= self.fault.skip or (self.fault.chance < 1 and self.dice.random() >= self.fault.chance):
            return False
        self.struck += 1
        return True


class Faults:
    """The faults of a server; those of the file stay, those set later may change at any time."""

    def __init__(self, filed: Sequence[Fault] = ()) -> None:
        """Begin with the faults of the file."""
        self._filed = [_Armed(fault) for fault in filed]
        self._set: list[_Armed] = []

    def strike(self, method: str, path: str) -> Fault | None:
        """Find the fault that this request meets, and count it."""
        operation = operation_of(method, path)
        for armed in (*self._set, *self._filed):
            if armed.fault.fits(operation, method, path) and armed.strikes():
                return armed.fault
        return None

    def put(self, faults: Iterable[Fault]) -> None:
        """Replace the faults that were set; all count from 0."""
        self._set = [_Armed(fault) for fault in faults]

    def prepend(self, faults: Iterable[Fault]) -> None:
        """Add faults in front of those that were set."""
        self._set = [*(_Armed(fault) for fault in faults), *self._set]

    def clear(self) -> None:
        """Forget the faults that were set; those of the file stay and count from 0 again."""
        self._set = []
        self._filed = [_Armed(armed.fault) for armed in self._filed]

    def shown(self) -> list[dict[str, Any]]:
        """List the faults in their order, and how often each struck."""
        return [{"fault": armed.fault.source, "struck": armed.struck} for armed in (*self._set, *self._filed)]


def faults_of(given: object) -> tuple[Fault, ...]:
    """Read faults as a line, a table, or a list of both; `ScriptError` names the fault and what is wrong."""
    if isinstance(given, str):
        return tuple(_fault_of_part(part) for part in split(given, ";") if part)
    if isinstance(given, Mapping):
        return (_fault_of_table(given),)
    if not isinstance(given, Sequence):
        raise ScriptError("faults are a line of text, or a list of faults")
    found: list[Fault] = []
    for number, one in enumerate(given, start=1):
        if not isinstance(one, (str, Mapping)):
            raise ScriptError(f"fault {number}: is neither a line nor a table")
        try:
            found += faults_of(one)
        except ScriptError as error:
            raise ScriptError(f"fault {number}: {error}") from None
    return tuple(found)


def _fault_of_part(part: str) -> Fault:
    place, *actions = split(part, "=", most=2)
    if not actions:
        raise ScriptError(f"{shown(part)}: write PLACE=ACTIONS, as in create=529")
    try:
        return replace(_complete(_acting(_at(place), actions[0])), source=part)
    except ScriptError as error:
        raise ScriptError(f"{shown(part)}: {error}") from None


def _fault_of_table(table: Mapping[str, Any]) -> Fault:
    unknown = sorted(str(key) for key in table.keys() - _KEYS)
    if unknown:
        raise ScriptError(f"{unknown[0]}: no such key; there are {', '.join(sorted(_KEYS))}")
    for key in ("at", "do"):
        if not isinstance(table.get(key, "*"), str):
            raise ScriptError(f"{key}: must be text")
    place, actions = str(table.get("at", "*")), str(table.get("do", ""))
    fault = _acting(_at(place), actions)
    for key in ("times", "skip", "chance", "seed"):
        if key in table:
            actions += f"+{key}:{table[key]}"
            fault = _with(fault, key, str(table[key]))
    return replace(_complete(fault), source=f"{place}={actions}")


def _at(place: str) -> Fault:
    if place in GROUPS:
        return Fault(operations=GROUPS[place])
    found = _PATH.fullmatch(place)
    if found is None:
        raise ScriptError(f"{shown(place)} is no place: write a path, or one of {', '.join(GROUPS)}")
    return Fault(method=found[1] or "", path=re.compile(fnmatch.translate(found[2])))


def _acting(fault: Fault, actions: str) -> Fault:
    for action in split(actions, "+"):
        name, *given = split(action, ":", most=2)
        fault = _with(fault, name, given[0] if given else None)
    return fault


def _with(fault: Fault, name: str, text: str | None) -> Fault:
    """Add one action."""
    if text is None:
        return _bare(fault, name)
    read = _READERS.get(name)
    if read is None:
        raise _no_action(name)
    return replace(fault, **read(text))


def _bare(fault: Fault, name: str) -> Fault:
    if name.isascii() and name.isdigit() and 400 <= int(name[:4]) <= 599:
        return replace(fault, status=int(name))
    if name == "reset":
        return replace(fault, is_reset=True)
    if name == "lost":
        return replace(fault, is_lost=True)
    raise _no_action(name)


def _no_action(name: str) -> ScriptError:
    return ScriptError(
        f"{shown(name)} is no action: there are a status from 400 to 599, reset, lost, {', '.join(sorted(_READERS))}"
    )


def _complete(fault: Fault) -> Fault:
    does = (fault.status, fault.is_reset, fault.is_lost, fault.cut_rows is not None, fault.bytes_per_s, fault.wait_s)
    if not any(does):
        raise ScriptError("does nothing: write a status, reset, lost, cut, slow or wait")
    return fault


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ScriptError(f"{shown(text)} is no whole number")
    return int(text[:12])


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ScriptError(f"{shown(text)} is no probability: write a number from 0 to 1")
    return value


def _rate(text: str) -> float:
    value = _whole(text)
    if not value:
        raise ScriptError("slow: write at least 1 byte a second")
    return float(value)


_READERS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "wait": lambda text: {"wait_s": seconds_of(text)},
    "retry_after": lambda text: {"retry_after_s": seconds_of(text)},
    "message": lambda text: {"message": plain(text)},
    "cut": lambda text: {"cut_rows": _whole(text)},
    "cut_inside": lambda text: {"cut_rows": _whole(text), "is_cut_inside": True},
    "slow": lambda text: {"bytes_per_s": _rate(text)},
    "times": lambda text: {"times": _whole(text)},
    "skip": lambda text: {"skip": _whole(text)},
    "chance": lambda text: {"chance": _share(text)},
    "seed": lambda text: {"seed": _whole(text)},
}
