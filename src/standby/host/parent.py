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
    """Return how many threads are worth while here: one a core, one core left over when there are many.

    What counts is affinity and the container's quota. Two hardware threads of one core share its vector unit, so
    they count once; a virtual machine that hides its cores shows each of its processors as one.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = physical_cores(allowed, Path("/sys/devices/system/cpu"))
    cores = max(1, min(cores, _quota() or cores))
    return cores if cores <= 4 else cores - 1


def physical_cores(allowed: set[int], folder: Path) -> int:
    """Count the cores behind some processors, as the kernel tells them; each is its own where it does not."""
    return len({_siblings(number, folder) for number in allowed})


def _siblings(number: int, folder: Path) -> str:
    try:
        return (folder / f"cpu{number}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(number)


def _quota() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
