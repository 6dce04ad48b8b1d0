"""Small instruments: memory and processor time of a process tree, and medians."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
MB = 1_000_000


@dataclass
class Watch:
    """What a watched process tree used while it was watched."""

    idle_mb: float
    peak_mb: float = 0.0
    samples: list[float] = field(default_factory=list)

    @property
    def over_idle_mb(self) -> float:
        """Peak less what the tree used before."""
        return self.peak_mb - self.idle_mb


@contextmanager
def memory_of(pid: int, *, every_s: float = 0.03) -> Iterator[Watch]:
    """Sample the proportional set size of a process and all its children."""
    watch, done = Watch(idle_mb=tree_mb(pid)), threading.Event()

    def sample() -> None:
        while not done.wait(every_s):
            watch.peak_mb = max(watch.peak_mb, tree_mb(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


def tree_mb(pid: int) -> float:
    """Sum the proportional set sizes of a process tree, in MB: private pages, and its share of common ones."""
    return sum(_pss_kb(member) for member in tree(pid)) * 1024 / MB


def tree(pid: int) -> list[int]:
    """List a process and everything below it."""
    found = [pid]
    for task in _list(Path(f"/proc/{pid}/task")):
        for child in _read(task / "children").split():
            found += tree(int(child))
    return found


def cpu_s(pid: int) -> float:
    """Processor seconds (user and system) of one process, all its threads."""
    parts = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that `work` took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """Write min / median / max."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:.{digits}f} / {middle:.{digits}f} / {high:.{digits}f}{unit}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> str:
    """Describe the machine in a line."""
    cpu = next(
        (line.split(":")[1].strip() for line in _read(Path("/proc/cpuinfo")).splitlines() if "model name" in line), ""
    )
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores ({cpu}), {memory_gb:.0f} GB"


def _pss_kb(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
