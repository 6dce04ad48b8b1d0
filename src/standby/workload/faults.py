"""What can keep a workload from being done, each with the exit code that scripts rely on.

    WorkloadError
    ├── BadInput      2  rows, prompt, schema or flags are wrong: nothing was sent
    ├── NoAccess      3  no key, or one that the service does not take
    ├── Refused       4  the service refuses what was sent, and would again
    ├── Unavailable   5  the service cannot be reached; the same command goes on later
    │   └── QueueFull    the service has no room at the moment
    ├── Uncertain        nobody knows yet whether a create was accepted; never leaves the room
    ├── WaitOver      7  `--wait` is over; the batches run on
    ├── LocalState    8  the job's files are in use, of another command, or damaged
    └── OverBudget    9  it would cost more than `--max-cost`

Messages say what to do and never contain rows, prompts or answers.
"""

from __future__ import annotations

from standby.errors import StandbyError

DONE = 0
FAILED_ROWS = 6
"""Exit code of a workload that is done, but for rows without a good answer."""


class WorkloadError(StandbyError):
    """Root of all; `code` is the exit code."""

    code = 4


class BadInput(WorkloadError):
    """Rows, prompt, schema or flags are wrong."""

    code = 2


class NoAccess(WorkloadError):
    """The credentials are missing or not taken."""

    code = 3


class Refused(WorkloadError):
    """The service refuses, and would again."""

    code = 4


class Unavailable(WorkloadError):
    """The service cannot be reached, or not for now; `after_s` is its `retry-after`, if it gave one."""

    code = 5

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        """Keep when to come back."""
        super().__init__(message)
        self.after_s = after_s


class QueueFull(Unavailable):
    """429 or 529: nothing is wrong but the moment."""


class Uncertain(WorkloadError):
    """The answer to a create was lost: the batch may exist or not."""


class WaitOver(WorkloadError):
    """The time that the user wanted to wait is over."""

    code = 7


class LocalState(WorkloadError):
    """The files of the job cannot be used."""

    code = 8


class OverBudget(WorkloadError):
    """It would cost more than allowed."""

    code = 9
