"""What the host's process must know about its surroundings: its parent, and the cores it may use."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(*, watch_stdin: bool) -> None:
    """End this process with its parent: by the kernel on Linux, and by the end of stdin everywhere."""
    if sys.platform == "linux" and watch_stdin:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if watch_stdin:
        threading.Thread(target=_exit_at_end_of_stdin, name="parent", daemon=True).start()


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def free_cores() -> int:
    """Return how many cores this process may use: affinity, container quota; one is left over when there are many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(1, min(cores, _quota() or cores))
    return cores if cores <= 4 else cores - 1


def _quota() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
