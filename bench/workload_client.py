"""One workload, its phases timed; a process of its own, so that its memory can be watched from outside.

`python -m bench.workload_client rows.parquet out.parquet URL ITEMS BYTES` says `idle`, waits for a line, runs, and
prints its phases as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import duckdb
import minijinja

from bench.workloads import ASK, MAX_TOKENS, MODEL
from standby import workload
from standby.workload.parts import Limits

assert duckdb
assert minijinja, "an idle client has loaded what it needs"


class Timed(workload.Service):
    """A service that notes how long creates and downloads took."""

    def __init__(self, client: anthropic.Anthropic) -> None:
        """Begin at nothing."""
        super().__init__(client)
        self.submit_s = self.download_s = 0.0

    def create(self, *given: Any, **named: Any) -> Any:
        """Make a batch."""
        began = time.perf_counter()
        try:
            return super().create(*given, **named)
        finally:
            self.submit_s += time.perf_counter() - began

    @contextlib.contextmanager
    def results(self, *given: Any, **named: Any) -> Iterator[Any]:
        """Download results."""
        began = time.perf_counter()
        with super().results(*given, **named) as answer:
            yield answer
        self.download_s += time.perf_counter() - began


def main() -> int:
    """Run."""
    source, output, url, items, size = sys.argv[1:]
    service = Timed(anthropic.Anthropic(base_url=url, api_key="bench"))
    print("idle", flush=True)
    sys.stdin.readline()
    spec = workload.Spec(
        source=workload.Source(kind="file", where=source),
        output=output,
        model=MODEL,
        prompt=ASK + "{{ text }}",
        max_tokens=MAX_TOKENS,
        id_column="id",
    )
    pace = workload.Pace(limits=Limits(items=int(items), bytes=int(size)), first_poll_s=0.5)
    waited = 0.0

    def wait(seconds: float) -> None:
        nonlocal waited
        time.sleep(seconds)
        waited += seconds

    phases: dict[str, float] = {}
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        with timed(phases, "prepare"):
            workload.prepare_job(job, pace=pace)
        with timed(phases, "run"):
            workload.Runner(job, service, pace, wait=wait).run()
        with timed(phases, "join"):
            workload.write_job(job)
        tag, parts = job.tag, [(part.items, job.body(part.number).stat().st_size) for part in job.parts()]
        results = sum(job.results(part.number).stat().st_size for part in job.parts())
    phases |= {"submit": service.submit_s, "wait": waited}
    phases["collect"] = phases.pop("run") - service.submit_s - waited
    print(json.dumps({"phases": phases, "tag": tag, "parts": parts, "results": results}), flush=True)
    assert Path(output).exists()
    return 0


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Note how long a phase took."""
    began = time.perf_counter()
    yield
    phases[name] = time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
