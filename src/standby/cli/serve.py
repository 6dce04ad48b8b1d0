"""`standby serve`."""

from __future__ import annotations

from pathlib import Path

import click

from standby.cli.flags import settings_from, with_settings


@click.command()
@with_settings
@click.option("--host", metavar="ADDRESS", help="Address to listen on; other than loopback needs a key.")
@click.option("--port", type=int, metavar="NUMBER", help="Port to listen on; 0 takes a free one.")
@click.option(
    "--engine",
    metavar="local|llamacpp|simulated|URL",
    help="Who generates: an embedded engine, the simulator, or a chat-completions or Messages server at URL.",
)
@click.option(
    "--model",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="GGUF file for an embedded engine; without it the small one that Standby fetches.",
)
@click.pass_context
def serve(
    context: click.Context,
    config_file: Path | None,
    data: str | None,
    host: str | None,
    port: int | None,
    engine: str | None,
    model: str | None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Flags win over STANDBY_… variables, those over the file, that over the defaults.
    """
    settings = settings_from(
        config_file,
        store__data=data,
        server__host=host,
        server__port=port,
        engine__kind=engine,
        engine__model=model,
    )
    from standby import server

    context.exit(server.run(settings))
