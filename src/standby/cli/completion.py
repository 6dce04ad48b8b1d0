"""`standby completion`: click completes commands and flags, and asks `offers.py` for models and jobs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from standby.cli.help import Headed

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_STANDBY_COMPLETE"
"""What the scripts set when they ask; click reads it."""


@click.command(
    cls=Headed,
    examples=(
        "standby completion bash > ~/.local/share/bash-completion/completions/standby",
        'standby completion zsh > "${fpath[1]}/_standby"',
        "standby completion fish > ~/.config/fish/completions/standby.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that teaches a shell to complete `standby`.

    Names of models, of jobs and of files too. For one session of bash or zsh:
    eval "$(standby completion bash)"
    """
    found = get_completion_class(shell)
    if found is None:  # pragma: no cover - all of SHELLS are click's own
        raise click.UsageError(f"{shell}: there is no completion for it")
    click.echo(found(click.Command("standby"), {}, "standby", VARIABLE).source())
