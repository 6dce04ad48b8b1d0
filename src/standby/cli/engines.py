"""`standby engines …`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from standby.cli.flags import settings_from, with_settings
from standby.cli.tables import show
from standby.engines.findings import Finding, Findings, as_json


@click.group()
def engines() -> None:
    """Look at engines."""


@engines.command()
@with_settings
@click.option("--api-key", metavar="KEY", help="Key for a remote engine.")
@click.option("--model", default="", metavar="NAME", help="The model that is tried; without it the first one listed.")
@click.option("--ask-only", is_flag=True, help="Only read what the engine says of itself: it generates nothing.")
@click.option("--json", "as_text", is_flag=True, help="Print one JSON object.")
@click.argument("url")
@click.pass_context
def probe(
    context: click.Context,
    config_file: Path | None,
    data: str | None,
    url: str,
    api_key: str | None,
    model: str,
    *,
    ask_only: bool,
    as_text: bool,
) -> None:
    """Find out what the chat-completions engine at URL can do, and how fast it is.

    It is asked, then made to answer about ten short requests. Each line says how it is known. Exit code 1 if nobody
    answers there.
    """
    settings = settings_from(config_file, store__data=data, engine__kind=url, engine__api_key=api_key)
    from standby import server

    findings = server.probe_engine(settings, model=model, deep=not ask_only)
    if as_text:
        click.echo(json.dumps(as_json(findings), indent=2))
    else:
        _print(findings)
    context.exit(0 if findings.reachable.value else 1)


def _print(findings: Findings) -> None:
    models = [(f"model {m.id}", f"{m.max_input_tokens or '?'} tokens", "asked", "") for m in findings.models]
    rows = [(name.replace("_", " "), _shown(one), one.how, one.note) for name, one in findings.found()]
    show(("what", "found", "how", ""), [*rows, *models])


def _shown(one: Finding) -> str:
    if isinstance(one.value, bool):
        return "yes" if one.value else "no"
    return "?" if one.value is None else str(one.value)
