"""Measure a job by hand: `python -m tests.workload.measure 100000`. Memory of the client over idle, and its pace.

The server is a process of its own, with the simulator; the client is another, watched from outside.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

say = functools.partial(print, flush=True)

CLIENT = "import sys; from standby.cli import main; sys.exit(main(sys.argv[1:]))"
IDLE = "import anthropic, duckdb, minijinja, standby.workload; print('idle', flush=True); input()"


def main() -> int:
    """Run, and print what was seen."""
    rows, text = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2_400
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.parquet"
        query = f"SELECT i AS id, repeat('word ', {text // 5}) || i AS text FROM range({rows}) r(i)"
        with duckdb.connect(":memory:") as connection:
            connection.execute(f"COPY ({query}) TO '{source}' (ROW_GROUP_SIZE 4096)")
        command = [sys.executable, "-m", "standby", "serve", "--engine", "simulated", "--port", "0"]
        serving = [*command, "--data", str(folder / "data")]
        with subprocess.Popen(serving, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                url = re.search(r"http://\S+", str(server.stdout and server.stdout.readline()))
                assert url is not None
                measure(source, folder / "out.parquet", url[0], rows)
            finally:
                server.terminate()
    return 0


def measure(source: Path, output: Path, url: str, rows: int) -> None:
    """Watch one run."""
    with subprocess.Popen(
        [sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as idle:
        assert idle.stdout is not None
        idle.stdout.readline()
        base = resident(idle.pid)
        idle.communicate("\n")
    arguments = ["run", str(source), "-m", "claude-haiku-4-5", "-p", "Say {{ text }}", "--max-tokens", "100"]
    arguments += ["-o", str(output), "--base-url", url, "--poll", "0.5", "--id", "id"]
    began, peak = time.monotonic(), 0
    phases: dict[str, tuple[float, int]] = {}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments], env={**os.environ, "ANTHROPIC_API_KEY": "x"}, stderr=subprocess.PIPE
    ) as client:
        while client.poll() is None:
            peak = max(peak, resident(client.pid))
            phase = phase_of(output)
            phases[phase] = (time.monotonic() - began, max(peak, phases.get(phase, (0, 0))[1]))
            time.sleep(0.05)
        said = client.stderr.read().decode() if client.stderr else ""
    size = sum(file.stat().st_size for file in Path(f"{output}.standby").glob("part-*.json")) / 1e6
    say(f"exit {client.returncode}; {rows:,} rows, {size:,.0f} MB of bodies, {time.monotonic() - began:.1f} s")
    say(f"client: idle {base} MB, peak {peak} MB, {peak - base} MB over idle")
    say("until the end of (seconds, peak MB): ", {name: (round(s, 1), p) for name, (s, p) in phases.items()})
    if client.returncode:
        say(said[-500:])
    with duckdb.connect(":memory:") as connection:
        query = "SELECT count(*), count(DISTINCT id), count_if(status = 'succeeded') FROM "
        say("rows, distinct, succeeded:", connection.execute(f"{query}'{output}'").fetchone())


def phase_of(output: Path) -> str:
    """Say how far the job is, by what lies there."""
    folder = Path(f"{output}.standby")
    if output.exists():
        return "written"
    if (folder / "answers.jsonl").exists() or (folder / ".answers.jsonl.new").exists():
        return "joining"
    if list(folder.glob("part-*.jsonl")) or list(folder.glob("part-*.new")):
        return "collecting"
    return "sending and waiting" if list(folder.glob("part-*.json")) else "reading"


def resident(pid: int) -> int:
    """Read how much memory a process holds, in MB; 0 if it is gone."""
    try:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) // 1024 if found else 0


if __name__ == "__main__":
    sys.exit(main())
