"""`standby config`."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from standby.cli.flags import settings_from, with_settings
from standby.config import known_keys, shown


@click.command(short_help="Print every setting with its value, as TOML.")
@with_settings
def config(config_file: Path | None, data: str | None) -> None:
    """Print every setting with its value, as a TOML file that --config reads.

    Values are those after the file and the STANDBY_… variables. Secrets are masked, and commented out.
    """
    click.echo(as_toml(shown(settings_from(config_file, store__data=data))))


def as_toml(values: dict[str, Any]) -> str:
    """Write flat `table.key` settings as TOML with a comment for each."""
    documented = known_keys()
    tables = []
    for table, keys in groupby(values, key=lambda key: key.partition(".")[0]):
        lines = [line for key in keys for line in _entry(key, values[key], documented[key])]
        tables.append("\n".join([f"[{table}]", *lines]))
    return "\n\n".join(tables)


def _entry(key: str, value: Any, documented: dict[str, Any]) -> list[str]:
    masked = "# " if value and documented.get("secret") else ""
    return [f"# {documented['doc']}", f"{masked}{key.partition('.')[2]} = {_toml(value)}"]


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return json.dumps(value)  # text, numbers and booleans look the same in JSON and TOML
