"""Put predictions beside what came, by hand: `python -m tests.workload.predicted`. A table for the documentation.

The server is a process of its own with the simulator, whose answers have the lengths that it likes.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from standby import workload
from standby.pricing.rates import DOLLAR
from standby.workload.estimate import estimate
from standby.workload.steps import prices_of
from tests.workload.kinds import KINDS

say = functools.partial(print, flush=True)
ROWS = {"short_rows": 6_000, "long_tail": 5_000, "ready_requests": 3_000}


def main() -> int:
    """Run all three, and print what was seen."""
    os.environ.setdefault("ANTHROPIC_API_KEY", "x")
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_STATE_HOME"] = f"{name}/state"
        command = [sys.executable, "-m", "standby", "serve", "--engine", "simulated", "--port", "0"]
        serving = [*command, "--data", f"{name}/data"]
        with subprocess.Popen(serving, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                url = re.search(r"http://\S+", str(server.stdout and server.stdout.readline()))
                assert url is not None
                say("| workload | rows, counted | prompt tokens predicted | came | off | cost predicted | charged |")
                say("|---|---|---|---|---|---|---|")
                for kind in KINDS:
                    folder = Path(name) / kind.__name__
                    folder.mkdir()
                    compare(kind.__name__, kind(folder, ROWS[kind.__name__]), url[0])
            finally:
                server.terminate()
    return 0


def compare(name: str, spec: workload.Spec, url: str) -> None:
    """Estimate, run, print one line of the table."""
    service = workload.connected(url)
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        found = estimate(job, service, prices_of(job))
        report = workload.run_job(job, service, pace=workload.Pace(first_poll_s=0.5))
    tokens, charged = report["tokens"], report["cost"]["charged_pico"]
    came = sum(tokens[name] for name in ("input", "cache_read", "cache_write_1h", "cache_write_5m"))
    low, high = found.prompt_tokens_span
    asked = found.asked_pico or (0, 0)
    say(
        f"| {name} | {found.rows:,}, {found.sampled} | {low:,} to {high:,} | {came:,} | "
        f"{found.prompt_tokens / came - 1:+.2%} | ${asked[0] / DOLLAR:.3f} to ${asked[1] / DOLLAR:.3f} | "
        f"${charged / DOLLAR:.3f} |"
    )
    assert low <= came <= high, "the interval missed"
    assert asked[0] <= charged <= asked[1], "the cost lies outside"


if __name__ == "__main__":
    sys.exit(main())
