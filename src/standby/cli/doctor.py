"""`standby doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from standby.cli.flags import settings_from, with_settings


@click.command(short_help="Check the data folder for damage.")
@with_settings
@click.pass_context
def doctor(context: click.Context, config_file: Path | None, data: str | None) -> None:
    """Check the data folder while no server uses it: every item one result, counts, checksums.

    Nothing is changed. Exit code 1 if something is wrong.
    """
    settings = settings_from(config_file, store__data=data)
    from standby import server

    findings = server.doctor(settings)
    for finding in findings:
        click.echo(finding)
    verdict = f"{len(findings)} findings" if findings else "all is well"
    click.echo(f"{settings.store.data}: {verdict}", err=True)
    context.exit(1 if findings else 0)
