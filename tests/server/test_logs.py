from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys, structlog
from standby.config import LogSettings
from standby.logs import set_up_logs
set_up_logs(LogSettings(format="{format}"))
os.close(2)
log = structlog.get_logger("test")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it broke", batch="b")
log.info("still here")
print("done")
"""


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """With standard error closed under it, the program goes on, in both formats."""
    for style in ("json", "text"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.replace("{format}", style)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "done\n")
