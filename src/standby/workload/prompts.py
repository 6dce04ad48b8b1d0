"""Rows become requests: templates, attachments, parameters.

Templates are `{{ column }}` in the language of Jinja, run by MiniJinja: no files, no Python, bounded work. An unknown
column is an error, an empty value (NULL) is an empty text.
"""

from __future__ import annotations

import base64
import importlib
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import minijinja
import msgspec

from standby.workload.faults import BadInput
from standby.workload.spec import Spec

FUEL = 1_000_000
IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
PDF = "application/pdf"
MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", PDF),
)


class Prompts:
    """The templates of a workload, checked against the columns before any row is read."""

    def __init__(self, spec: Spec, columns: Sequence[str]) -> None:
        """Compile; `BadInput` names what is wrong with a template."""
        self._spec = spec
        texts = {"--prompt": spec.prompt, "--system": spec.system}
        texts |= {f"--attach-file {number}": text for number, text in enumerate(spec.attachments, start=1)}
        self._environment = minijinja.Environment(
            undefined_behavior="strict", debug=False, keep_trailing_newline=True, fuel=FUEL, finalizer=_plain
        )
        for name, text in texts.items():
            self._add(name, text, frozenset(columns))
        self._head = _head(spec)
        self._is_system_fixed = not self._names(spec.system)

    def params(self, row: Mapping[str, Any], *, number: int) -> dict[str, Any]:
        """Write the params of a row; `number` counts from 1 and is for messages."""
        params = dict(self._head)
        if self._spec.system:
            params["system"] = self._system(self._render("--system", row, number))
        names = [f"--attach-file {at}" for at in range(1, len(self._spec.attachments) + 1)]
        places = [place for name in names if (place := self._render(name, row, number).strip())]
        blocks = [_attachment(place, number) for place in places]
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

    def _add(self, name: str, text: str, columns: frozenset[str]) -> None:
        try:
            self._environment.add_template(name, text)
        except minijinja.TemplateError as error:
            raise BadInput(f"{name}: {error}") from None
        unknown = sorted(self._names(text) - columns)
        if unknown:
            raise BadInput(f"{name}: there is no column {unknown[0]!r}; there are {', '.join(sorted(columns))}")

    def _names(self, text: str) -> frozenset[str]:
        known = {"range", "dict", "namespace", "debug", "true", "false", "none", "True", "False", "None"}
        return frozenset(self._environment.undeclared_variables_in_str(text)) - known

    def _render(self, name: str, row: Mapping[str, Any], number: int) -> str:
        try:
            return self._environment.render_template(name, **row)
        except minijinja.TemplateError as error:
            raise BadInput(f"row {number}: {name}: {error}") from None


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


def _attachment(place: str, number: int) -> dict[str, Any]:
    if place.startswith(("http://", "https://")):
        kind = "document" if (mimetypes.guess_type(place.partition("?")[0])[0] == PDF) else "image"
        return {"type": kind, "source": {"type": "url", "url": place}}
    try:
        data = Path(place).read_bytes()
    except OSError as error:
        raise BadInput(f"row {number}: the attachment cannot be read ({error.strerror})") from None
    media = _media(data)
    source = {"type": "base64", "media_type": media, "data": base64.b64encode(data).decode()}
    if media is None:
        raise BadInput(f"row {number}: the attachment is neither a JPEG, PNG, GIF or WebP image nor a PDF")
    return {"type": "document" if media == PDF else "image", "source": source}


def _media(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media for magic, media in MAGIC if data.startswith(magic)), None)


def _plain(value: Any) -> Any:
    return "" if value is None else value
