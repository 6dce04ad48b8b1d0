"""The command `standby`: one file a group of commands.

Exit codes:

    0    done
    1    not done, or `doctor` found something; standard error says what
    2    the command line is wrong
    3    the server cannot start: a setting, the port, the data folder or the engine
    130  interrupted

Commands that work on a workload have more: see `standby.workload.faults`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from standby.cli.completion import completion
from standby.cli.doctor import doctor
from standby.cli.engines import engines
from standby.cli.help import WIDTH, Standby
from standby.cli.keys import keys
from standby.cli.money import cost, usage
from standby.cli.prices import prices
from standby.cli.savings import savings
from standby.cli.serve import serve
from standby.cli.settings import config
from standby.cli.top import top
from standby.cli.workload import COMMANDS
from standby.cli.workspaces import workspaces
from standby.errors import SettingError, StandbyError, StartError

__all__ = ["main", "standby"]

NOT_DONE = 1
CANNOT_START = 3
INTERRUPTED = 130


@click.group(cls=Standby, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH})
@click.version_option(package_name="standby", message="%(prog)s %(version)s")
def standby() -> None:
    """Answer many rows through batches, of Claude or of models that you run yourself.

    `standby run` is the client, `standby serve` a server that speaks Claude's
    Message Batches API. `standby FILE.toml` is `standby nightly FILE.toml`.
    """


for command in (
    serve,
    keys,
    workspaces,
    config,
    doctor,
    engines,
    usage,
    cost,
    savings,
    prices,
    top,
    *COMMANDS,
    completion,
):
    standby.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error becomes one line on standard error."""
    try:
        code = standby.main(arguments, prog_name="standby", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (SettingError, StartError) as error:
        return _complain(error, CANNOT_START)
    except (StandbyError, OSError) as error:
        return _complain(error, NOT_DONE)
    return code if isinstance(code, int) else 0


def _complain(error: Exception, code: int) -> int:
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        click.echo(f"standby: {error}", err=True)
    return code
