"""Scripts: which request gets which cue, in one line or in a TOML file.

A line is `PATTERN=ACTIONS; PATTERN=ACTIONS; …`; a part without a pattern is for every request.

    never                                       everything hangs until it expires
    doc-*=errored:overloaded_error; *=slow:2    by `custom_id`, with * and ?
    *@claude-opus-*=refusal                     by model
    *~refund=say:Done.; *~/r[0-9]+/=max_tokens  by a text or a regular expression in the prompt

Actions, joined with `+`:

    ok                     answer as always
    errored:TYPE[:TEXT]    fail with this error; in a batch the item becomes an errored row
    fail:TYPE[:N[:TEXT]]   fail N times (once), then answer
    slow:TIME              answer after a time: 2.5, 500ms, 90s, 5m, 24h
    never                  never answer
    stop:REASON            end with this stop reason
    say:TEXT               say this
    call:TOOL[:JSON]       call this tool, with this input or one that fits its schema

A bare error type or stop reason stands for `errored:` or `stop:` with it. Text that holds `;`, `+` or, in a pattern,
`=` is put in double quotes, as in JSON. The first rule that fits decides, alone: rules of the header
`standby-simulate` come first, then those set over the API or by `standby.testing`, then those of the file.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from standby.emulation.clock import seconds_of
from standby.emulation.cue import ERROR_TYPES, NEVER, PLAIN, STOP_REASONS, Cue
from standby.errors import ScriptError, invalid

_NAME = re.compile(r"[A-Za-z0-9_.*?\[\]!-]*")
_PLACE = re.compile(r"\{(\w+)\}")
_KEYS = frozenset(
    {
        *("custom_id", "model", "contains", "matches", "do"),
        *("after", "error", "message", "times", "stop", "say", "call", "input"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A pattern, and the cue for the requests that it fits; `source` is how people wrote it."""

    source: str
    cue: Cue = PLAIN
    custom_id: re.Pattern[str] | None = None
    """A live request has the empty one."""
    model: re.Pattern[str] | None = None
    contains: str = ""
    """Text that the prompt must hold."""
    matches: re.Pattern[str] | None = None
    """What must be found in the prompt; its groups may stand in the cue's text as `{1}` or `{name}`."""

    def cue_for(self, custom_id: str, model: str, text: Callable[[], str]) -> Cue | None:
        """Return the cue, or None if the rule does not fit."""
        if self.custom_id is not None and not self.custom_id.match(custom_id):
            return None
        if self.model is not None and not self.model.match(model):
            return None
        if self.contains and self.contains not in text():
            return None
        if self.matches is None:
            return self.cue
        found = self.matches.search(text())
        return None if found is None else _filled(self.cue, found)


class Script:
    """The rules of a simulator; the ones of the file stay, the ones set later may change at any time."""

    def __init__(self, filed: Sequence[Rule] = ()) -> None:
        """Begin with the rules of the file."""
        self.filed = tuple(filed)
        self.rules: tuple[Rule, ...] = ()
        """Set while the simulator runs; they go before those of the file."""

    def cue(self, *, custom_id: str, model: str, text: Callable[[], str], header: str = "") -> Cue:
        """Find the cue for a request; `text` gives its prompt and is only called if a rule asks for it.

        `InvalidParams` if `header` is no script.
        """
        for rule in (*_asked(header), *self.rules, *self.filed):
            cue = rule.cue_for(custom_id, model, text)
            if cue is not None:
                return cue
        return PLAIN

    def put(self, rules: Iterable[Rule]) -> None:
        """Replace the rules that were set."""
        self.rules = tuple(rules)

    def prepend(self, rules: Iterable[Rule]) -> None:
        """Add rules in front of those that were set."""
        self.rules = (*rules, *self.rules)

    def clear(self) -> None:
        """Forget the rules that were set; those of the file stay."""
        self.rules = ()


def _asked(header: str) -> tuple[Rule, ...]:
    try:
        return rules_of_line(header) if header else ()
    except ScriptError as error:
        raise invalid(f"standby-simulate: {error}") from None


def read_script(file: Path) -> dict[str, Any]:
    """Read a TOML file with `[[rule]]` and `[[fault]]` tables; `ScriptError` names the file and what is wrong."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScriptError(f"{file}: {error}") from None
    unknown = sorted(document.keys() - {"rule", "fault"})
    if unknown:
        raise ScriptError(f"{file}: {unknown[0]}: a script has [[rule]] and [[fault]] tables")
    return document


def rules_of(given: object) -> tuple[Rule, ...]:
    """Read rules as a line, a table, or a list of both; `ScriptError` names the rule and what is wrong."""
    if isinstance(given, str):
        return rules_of_line(given)
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, Sequence):
        raise ScriptError("a script is a line of text, or a list of rules")
    return tuple(_numbered(given))


def _numbered(given: Sequence[object]) -> Iterator[Rule]:
    for number, one in enumerate(given, start=1):
        try:
            yield from rules_of_line(one) if isinstance(one, str) else (_rule_of_table(one),)
        except ScriptError as error:
            raise ScriptError(f"rule {number}: {error}") from None


@functools.lru_cache(maxsize=256)
def rules_of_line(line: str) -> tuple[Rule, ...]:
    """Read a script of one line; `ScriptError` shows the part that is wrong."""
    return tuple(_rule_of_part(part) for part in split(line, ";") if part)


def _rule_of_part(part: str) -> Rule:
    pattern, actions = _cut_pattern(part)
    try:
        rule = _pattern(pattern) if pattern else Rule(source="")
        return replace(rule, cue=_cue(actions), source=part)
    except ScriptError as error:
        raise ScriptError(f"{shown(part)}: {error}") from None


def _cut_pattern(part: str) -> tuple[str, str]:
    """Cut at the first `=`, unless a `:` stands before it: then it belongs to an action."""
    pieces = split(part, "=", most=2)
    if len(pieces) == 1 or len(split(_before_text(pieces[0]), ":", most=2)) > 1:
        return "", part
    return pieces[0], pieces[1]


def _before_text(pattern: str) -> str:
    """Leave out what is behind `~`: a text may hold a `:`."""
    return pattern.partition("~")[0]


def _pattern(text: str) -> Rule:
    names, tilde, wanted = text.partition("~")
    custom_id, _, model = names.partition("@")
    for name in (custom_id, model):
        if not _NAME.fullmatch(name):
            raise ScriptError(f"{shown(name)} is no pattern: use letters, digits, - and _, with * and ?")
    if tilde and not wanted:
        raise ScriptError("behind ~ stands a text, or a regular expression between two /")
    is_regex = len(wanted) > 1 and wanted.startswith("/") and wanted.endswith("/")
    return Rule(
        source=text,
        custom_id=_glob(custom_id),
        model=_glob(model),
        contains="" if is_regex else plain(wanted),
        matches=_regex(wanted[1:-1]) if is_regex else None,
    )


def _cue(actions: str) -> Cue:
    cue = PLAIN
    for action in split(actions, "+"):
        cue = _with(cue, action)
    return cue


def _with(cue: Cue, action: str) -> Cue:  # noqa: PLR0911 - one line an action
    name, *given = split(action, ":", most=2)
    rest = given[0] if given else ""
    match name:
        case "ok" if not given:
            return cue
        case "never" if not given:
            return replace(cue, after_s=NEVER)
        case "slow" if given:
            return replace(cue, after_s=seconds_of(rest))
        case "stop" if given:
            return replace(cue, stop=_one_of(rest, STOP_REASONS, "stop reason"))
        case "say" if given:
            return replace(cue, text=plain(rest))
        case "call" if given:
            return _calling(cue, rest)
        case "errored" if given:
            type_, *words = split(rest, ":", most=2)
            return _failing(cue, type_, times=None, words=words)
        case "fail" if given:
            type_, *more = split(rest, ":", most=3)
            return _failing(cue, type_, times=_count(more[0]) if more else 1, words=more[1:])
        case _:
            return _short(cue, action)


def _short(cue: Cue, action: str) -> Cue:
    if action in ERROR_TYPES:
        return _failing(cue, action, times=None, words=[])
    if action in STOP_REASONS:
        return replace(cue, stop=action)
    raise ScriptError(
        f"{shown(action)} is no action: there are ok, errored:TYPE, fail:TYPE:N, slow:TIME, never, stop:REASON, "
        "say:TEXT and call:TOOL"
    )


def _failing(cue: Cue, type_: str, *, times: int | None, words: list[str]) -> Cue:
    _one_of(type_, ERROR_TYPES, "error type")
    return replace(cue, error=type_, times=times, message=plain(words[0]) if words else "")


def _calling(cue: Cue, text: str) -> Cue:
    tool, *given = split(text, ":", most=2)
    if not tool:
        raise ScriptError("call: behind it stands the name of a tool")
    return replace(cue, tool=plain(tool), input=_object(given[0]) if given else None)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ScriptError(f"{shown(text)} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ScriptError(f"{shown(text)}: the input of a tool is a JSON object")
    return value


def _rule_of_table(table: object) -> Rule:
    """Read a rule as a table: the pattern's parts, and `do` with a line's actions or their parts spelled out."""
    if not isinstance(table, Mapping):
        raise ScriptError("is neither a line nor a table")
    unknown = sorted(str(key) for key in table.keys() - _KEYS)
    if unknown:
        raise ScriptError(f"{unknown[0]}: no such key; there are {', '.join(sorted(_KEYS))}")
    cue = _cue(_text(table, "do")) if "do" in table else PLAIN
    return Rule(
        source=json.dumps(dict(table), ensure_ascii=False),
        cue=_spelled(cue, table),
        custom_id=_glob(_text(table, "custom_id")),
        model=_glob(_text(table, "model")),
        contains=_text(table, "contains"),
        matches=_regex(_text(table, "matches")) if "matches" in table else None,
    )


def _spelled(cue: Cue, table: Mapping[str, Any]) -> Cue:
    """Put the parts that stand on their own into the cue."""
    given: dict[str, Any] = {}
    if "after" in table:
        given["after_s"] = NEVER if table["after"] == "never" else seconds_of(table["after"])
    if "error" in table:
        given["error"] = _one_of(_text(table, "error"), ERROR_TYPES, "error type")
    if "stop" in table:
        given["stop"] = _one_of(_text(table, "stop"), STOP_REASONS, "stop reason")
    if "times" in table:
        given["times"] = _count(table["times"])
    for key, name in (("message", "message"), ("say", "text"), ("call", "tool")):
        if key in table:
            given[name] = _text(table, key)
    if "input" in table:
        if not isinstance(table["input"], Mapping):
            raise ScriptError("input: must be a table")
        given["input"] = dict(table["input"])
    return replace(cue, **given)


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise ScriptError(f"{key}: must be text, not {shown(value)}")
    return value


def _count(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ScriptError(f"{shown(value)}: how many times is a whole number from 1")
    return value


def _one_of(value: str, known: tuple[str, ...], what: str) -> str:
    if value not in known:
        raise ScriptError(f"{shown(value)} is no {what}: there are {', '.join(known)}")
    return value


def _glob(pattern: str) -> re.Pattern[str] | None:
    return None if pattern in {"", "*"} else re.compile(fnmatch.translate(pattern))


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ScriptError(f"{shown(pattern)} is no regular expression: {error}") from None


def _filled(cue: Cue, found: re.Match[str]) -> Cue:
    """Put the groups of a match into the text."""
    if cue.text is None or "{" not in cue.text:
        return cue
    groups = {**{str(place): text for place, text in enumerate((found[0], *found.groups("")))}, **found.groupdict("")}
    return replace(cue, text=_PLACE.sub(lambda place: groups.get(place[1], place[0]), cue.text))


def split(text: str, mark: str, *, most: int = 0) -> list[str]:
    """Cut at every `mark` outside double quotes, braces and `/…/`; spaces around the pieces go."""
    pieces: list[str] = []
    start = place = 0
    while place < len(text) and (not most or len(pieces) < most - 1):
        if text[place] == mark:
            pieces.append(text[start:place].strip())
            start = place = place + 1
        else:
            place = _behind(text, place)
    return [*pieces, text[start:].strip()]


def _behind(text: str, place: int) -> int:
    """Step over one character, or over all that belongs together."""
    if text[place] == '"':
        return _end_of(text, place, '"')
    if text[place] == "/" and text[place - 1 : place] == "~":
        return _end_of(text, place, "/")
    return _end_of_braces(text, place) if text[place] == "{" else place + 1


def _end_of(text: str, place: int, mark: str) -> int:
    at = place + 1
    while at < len(text) and text[at] != mark:
        at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise ScriptError(f"{shown(text)}: {mark} is opened and never closed")
    return at + 1


def _end_of_braces(text: str, place: int) -> int:
    depth, at = 0, place
    while at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at = _end_of(text, at, '"') if text[at] == '"' else at + 1
        if not depth:
            return at
    raise ScriptError(f"{shown(text)}: {{ is opened and never closed")


def plain(text: str) -> str:
    """Take the quotes off."""
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        raise ScriptError(f"{shown(text)}: the quoted text is no JSON string") from None


def shown(value: object) -> str:
    """Quote what is wrong, cut to a length for a message."""
    text = value if isinstance(value, str) else repr(value)
    return f'"{text[:80]}…"' if len(text) > 80 else f'"{text}"'
