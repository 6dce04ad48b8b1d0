"""SQL is SQL: whole statements in `.sql` files, each under its name."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_ROOM = files("standby.store.sqlite")


def load(noun: str) -> dict[str, str]:
    """Read `<noun>.sql`: name of a statement -> its text."""
    _, *parts = _NAME.split(_ROOM.joinpath(f"{noun}.sql").read_text(encoding="utf-8"))
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def migrations() -> list[str]:
    """Read the migrations in order; the n-th brings the schema to version n."""
    return [place.read_text(encoding="utf-8") for place in _migration_files()]


def split(script: str) -> Iterator[str]:
    """Cut a script into statements, so that they can run inside one transaction."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if line.rstrip().endswith(";") and sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def _migration_files() -> list[Traversable]:
    folder = _ROOM.joinpath("migrations")
    return sorted((p for p in folder.iterdir() if p.name.endswith(".sql")), key=lambda place: place.name)
