"""A job in virtual time: what it waits passes at once, for it and for the emulator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload import runner, steps
from standby.workload.elapsed import Elapsed
from standby.workload.jobfile import JobFile
from standby.workload.report import report_of
from standby.workload.runner import Pace, Runner, Say, silent
from tests.workload.conftest import MODEL, write_rows

LEAST_S = 1e-6
"""No wait is shorter, as no real one is: what is left by rounding moves no clock, and a loop would wait for ever."""


@dataclass(slots=True)
class World:
    """Two clocks that move together, unless somebody sets one of them, and an emulator that follows."""

    emulator: Emulator | None = None
    step_s: float = 300.0
    """The emulator hears of time in steps of this size."""
    wall_s: float = 1e9
    steady_s: float = 0.0
    behind_s: float = 0.0
    """How much of it the emulator has not heard of."""

    def wait(self, seconds: float) -> None:
        """Let time pass; the emulator hears of it in steps that are worth a call."""
        seconds = max(seconds, LEAST_S)
        self.wall_s += seconds
        self.steady_s += seconds
        self.behind_s += seconds
        if self.emulator is None:
            return
        if self.behind_s >= self.step_s:
            self.emulator.advance(seconds=self.behind_s)
            self.behind_s = 0.0
        elif self.behind_s == seconds:  # the first wait of a step: what needs no time is done at once
            self.emulator.settle()

    def sleep(self, seconds: float) -> None:
        """Close the laptop: only the clock on the wall goes on."""
        self.wall_s += seconds

    def clock(self) -> Elapsed:
        """Make what a runner knows of time."""
        return Elapsed(lambda: self.wall_s, lambda: self.steady_s)

    def runner(self, job: JobFile, service: workload.Service, pace: Pace | None = None, *, say: Say = silent) -> Runner:
        """Make the loop of a job that lives here, with the patience of every day unless told otherwise."""
        return Runner(job, service, pace or Pace(), say=say, wait=self.wait, clock=self.clock())

    def run(self, job: JobFile, service: workload.Service, pace: Pace | None = None, **more: Any) -> dict[str, Any]:
        """Run a job to its end, write its output, and report."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "TICK_S", self.step_s)  # nobody is there to press Ctrl-C
            self.runner(job, service, pace, **more).run()
        steps.write_job(job)
        return report_of(job, steps.prices_of(job))


@contextlib.contextmanager
def job_of(service: workload.Service, folder: Path, rows: int, pace: Pace | None = None) -> Iterator[JobFile]:
    """Open a job with so many rows, its bodies written."""
    source = workload.Source(kind="file", where=str(write_rows(folder / "in.jsonl", rows)))
    output = str(folder / "out.parquet")
    spec = workload.Spec(source=source, output=output, model=MODEL, prompt="Say {{ text }}", max_tokens=50)
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job, pace=pace)
        yield job
