"""Flags that several commands share, and the settings that they add up to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from standby.config import Settings, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])


def with_settings(command: Command) -> Command:
    """Add `--config` and `--data`, which every command that reads settings takes."""
    data = click.option("--data", metavar="DIR", help="Folder of the database and the blobs.")
    file = click.option(
        "--config",
        "config_file",
        metavar="FILE",
        envvar="STANDBY_CONFIG",
        show_envvar=True,
        type=click.Path(path_type=Path),
        help="Settings, as TOML.",
    )
    return file(data(command))


def settings_from(config_file: Path | None, **flags: Any) -> Settings:
    """Load the settings; a flag that was not given is None and changes nothing. `server__port` sets `server.port`."""
    given = {name.replace("__", "."): value for name, value in flags.items() if value is not None}
    return load_settings(config_file, flags=given)
