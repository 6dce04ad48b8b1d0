"""Rows become requests: templates, attachments, parameters.

Templates are `{{ column }}` in the language of Jinja, run by MiniJinja: no files, no Python, bounded work. An unknown
column is an error, an empty value (NULL) is an empty text.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import minijinja
import msgspec

from standby.workload.attachments import block_of
from standby.workload.faults import BadInput
from standby.workload.spec import Spec

FUEL = 1_000_000
WHOLE = "row"
"""A name for all columns: `{{ row["any name"] }}`."""
_COLUMN = re.compile(r"\{\{\s*(?!(?:[Tt]rue|[Ff]alse|[Nn]one)\b)([a-zA-Z_][a-zA-Z0-9_]*)\s*\}\}")


class Prompts:
    """The templates of a workload, checked against the columns before any row is read."""

    def __init__(self, spec: Spec, columns: Sequence[str]) -> None:
        """Compile; `BadInput` names what is wrong with a template."""
        self._spec = spec
        texts = {"--prompt": spec.prompt, "--system": spec.system}
        texts |= {f"--attach-file {number}": text for number, text in enumerate(spec.attachments, start=1)}
        self._columns = frozenset(columns)
        self._pieces: dict[str, tuple[str, ...] | None] = {}
        self._names_row: set[str] = set()
        self._environment = minijinja.Environment(
            undefined_behavior="strict", debug=False, keep_trailing_newline=True, fuel=FUEL, finalizer=_plain
        )
        self._environment.remove_global("debug")
        for name, text in texts.items():
            self._add(name, text)
        self._head = _head(spec)
        self._is_system_fixed = not self._names(spec.system)

    def params(self, row: Mapping[str, Any], *, number: int) -> dict[str, Any]:
        """Write the params of a row; `number` counts from 1 and is for messages."""
        params = dict(self._head)
        if self._spec.system:
            params["system"] = self._system(self._render("--system", row, number))
        names = [f"--attach-file {at}" for at in range(1, len(self._spec.attachments) + 1)]
        places = [place for name in names if (place := self._render(name, row, number).strip())]
        blocks = [block_of(place, row=number) for place in places]
        text = self._render("--prompt", row, number)
        if not text.strip() and not blocks:
            raise BadInput(f"row {number}: the prompt is empty")
        content: Any = [*blocks, {"type": "text", "text": text}] if blocks and text.strip() else blocks or text
        params["messages"] = [{"role": "user", "content": content}]
        return params

    def _system(self, text: str) -> Any:
        if self._spec.cache == "off" or not text:
            return text
        return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": self._spec.cache}}]

    def _add(self, name: str, text: str) -> None:
        try:
            self._environment.add_template(name, text)
            used = self._names(text)
        except minijinja.TemplateError as error:
            raise BadInput(f"{name}: {error}") from None
        known = self._columns | {WHOLE}
        unknown = sorted(used - known)
        if unknown:
            raise BadInput(f"{name}: there is no column {unknown[0]!r}; there are {', '.join(sorted(self._columns))}")
        pieces = _pieces(text)
        self._pieces[name] = pieces if pieces and self._columns.issuperset(pieces[1::2]) else None
        if used - self._columns:
            self._names_row.add(name)

    def _names(self, text: str) -> frozenset[str]:
        known = {"range", "dict", "namespace", "true", "false", "none", "True", "False", "None"}
        return frozenset(self._environment.undeclared_variables_in_str(text)) - known

    def _render(self, name: str, row: Mapping[str, Any], number: int) -> str:
        pieces = self._pieces[name]
        if pieces is not None and (text := _filled(pieces, row)) is not None:
            return text
        given = {**row, WHOLE: row} if name in self._names_row else row
        try:
            return self._environment.render_template(name, **given)
        except minijinja.TemplateError as error:
            raise BadInput(f"row {number}: {name}: {error}") from None


def _pieces(text: str) -> tuple[str, ...] | None:
    """Cut a template that only names columns: text, column, text, column, …, text. None if it does anything else."""
    pieces = _COLUMN.split(text)
    return None if any(mark in piece for piece in pieces[::2] for mark in ("{{", "{%", "{#")) else tuple(pieces)


def _filled(pieces: tuple[str, ...], row: Mapping[str, Any]) -> str | None:
    """Fill in columns that are texts, as most are, without asking the engine; None if one is something else."""
    found = list(pieces)
    for at in range(1, len(pieces), 2):
        value = row[pieces[at]]
        if value is not None and not isinstance(value, str):
            return None
        found[at] = value or ""
    return "".join(found)


def text_of(given: str) -> str:
    """Read `@file`; any other text is itself, `@@` stands for a first `@`."""
    if given.startswith("@@"):
        return given[1:]
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{given}: cannot be read ({getattr(error, 'strerror', None) or 'it is no UTF-8'})") from None


def schema_of(given: str) -> dict[str, Any]:
    """Read a JSON Schema from a file, or from a pydantic model named `module:Class`."""
    if ":" in given and not Path(given).exists():
        return _schema_of_model(given)
    try:
        found = msgspec.json.decode(Path(given).read_bytes())
    except OSError as error:
        raise BadInput(f"--schema {given}: cannot be read ({error.strerror})") from None
    except msgspec.DecodeError as error:
        raise BadInput(f"--schema {given}: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(f"--schema {given}: must be a JSON object")
    return found


def _schema_of_model(given: str) -> dict[str, Any]:
    module, _, name = given.partition(":")
    try:
        model = getattr(importlib.import_module(module), name)
        found: dict[str, Any] = model.model_json_schema()
    except (ImportError, AttributeError) as error:
        raise BadInput(f"--schema {given}: is neither a file nor a pydantic model ({error})") from None
    return found


def _head(spec: Spec) -> dict[str, Any]:
    """Write what all requests have in common."""
    params: dict[str, Any] = {"model": spec.model, "max_tokens": spec.max_tokens, **spec.params}
    if spec.schema is not None:
        config = dict(params.get("output_config") or {})
        params["output_config"] = {**config, "format": {"type": "json_schema", "schema": spec.schema}}
    return params


def _plain(value: Any) -> Any:
    return "" if value is None else value
