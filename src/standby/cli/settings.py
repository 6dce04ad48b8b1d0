"""`standby config`."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from standby.cli.flags import settings_from, with_settings
from standby.config import Shown, shown


@click.command(short_help="Print every setting with its value, as TOML.")
@with_settings
def config(config_file: Path | None, data: str | None) -> None:
    """Print every setting with its value, as a TOML file that --config reads.

    Values are those after the file and the STANDBY_… variables. Secrets are masked, and commented out.
    """
    click.echo(as_toml(shown(settings_from(config_file, store__data=data))))


def as_toml(settings: list[Shown]) -> str:
    """Write settings as TOML with a comment for each."""
    tables = []
    for table, entries in groupby(settings, key=lambda entry: entry.table):
        tables.append("\n".join([f"[{table}]", *(line for entry in entries for line in _entry(entry))]))
    return "\n\n".join(tables)


def _entry(entry: Shown) -> list[str]:
    masked = "# " if entry.is_masked else ""
    return [f"# {entry.doc}", f"{masked}{entry.name} = {_toml(entry.value)}"]


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return json.dumps(value)  # text, numbers and booleans look the same in JSON and TOML
