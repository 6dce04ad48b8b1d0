"""How help reads: commands and flags under headings, no line beyond 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

WIDTH = 80
COMMANDS: Mapping[str, Sequence[str]] = {
    "Answer rows": ("run", "nightly", "estimate"),
    "Step by step": ("submit", "watch", "collect", "retry", "cancel", "list", "report"),
    "Serve": ("serve", "keys", "workspaces", "config", "doctor", "engines", "top"),
    "Money": ("usage", "cost", "savings", "prices"),
    "Shell": ("completion",),
}
"""Headings of `standby --help`, with their commands in the order in which one meets them."""
FLAGS: Mapping[str, Sequence[str]] = {
    "Rows": ("sql", "files", "form", "limit", "id_column", "attach"),
    "Question": ("model", "prompt", "system", "attachments", "schema", "max_tokens", "params", "cache"),
    "Money": ("max_cost", "no_estimate"),
    "Answers": ("output", "page", "as_json", "as_jsonl"),
    "Service and patience": ("base_url", "wait_s", "retries", "more_room", "poll_s", "settle_s", "gone", "unproven"),
}
"""Headings of a command on workloads, with the names of its flags; what stands under none is an option."""


class Headed(click.Command):
    """A command with examples, and with its flags in groups."""

    def __init__(self, *given: Any, examples: Sequence[str] = (), **named: Any) -> None:
        """Take lines of examples beside what click takes."""
        super().__init__(*given, **named)
        self.examples = examples

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples below the text, line by line as they are."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags under their headings."""
        flags = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        shown = {str(one.name): record for one in flags if (record := one.get_help_record(ctx))}
        for heading, names in FLAGS.items():
            rows = [shown.pop(name) for name in names if name in shown]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
        with formatter.section("Options"):
            formatter.write_dl(list(shown.values()))


class Standby(click.Group):
    """The command `standby`; a workload as TOML may stand where a command would: `standby nightly.toml`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Put `nightly` in front of a file of TOML."""
        if args[0].endswith(".toml") and args[0] not in self.commands:
            args = ["nightly", *args]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, each with the first sentence of its help."""
        del ctx
        room = formatter.width - 6 - max(len(name) for name in self.commands)
        for heading, names in self._headings():
            rows = [(name, _first(self.commands[name], room)) for name in names if name in self.commands]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def _headings(self) -> Iterator[tuple[str, Sequence[str]]]:
        yield from COMMANDS.items()
        placed = {name for names in COMMANDS.values() for name in names}
        yield "Others", [name for name in self.list_commands(click.Context(self)) if name not in placed]


def _first(command: click.Command, room: int) -> str:
    """Take the first sentence of a command's help, without what stands behind a colon or semicolon if it is long."""
    whole = command.get_short_help_str(1000)
    return whole if len(whole) <= room else f"{re.split('[:;]', whole)[0].rstrip('.')}."
