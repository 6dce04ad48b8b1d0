"""A large workload from Parquet to a joined Parquet, beside the same job with the SDK's plain loop.

The first half of the rows is short and the second long, so that one limit of a batch binds after the other. The
simulator answers with the name of the request, so that every row can be checked for the answer to its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from bench.measure import MB, memory_of
from bench.rows import Row, server
from standby.workload.names import custom_id, hash_of
from standby.workload.parts import MOST_BYTES, MOST_ITEMS

MODEL = "claude-haiku-4-5"
ASK = "Say what this is about: "
MAX_TOKENS = 200
SHORT, LONG = 1_500, 3_000
"""Bytes of a text, in the first half of the rows and in the second."""
CHUNK = 75_000
"""Rows of a batch of the plain loop: so many long ones are less than 256 MB."""
MOST_MB = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was seen of one client."""

    seconds: float
    over_idle_mb: float
    told: dict[str, Any]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase."""
        found: dict[str, float] = self.told["phases"]
        return found

    @property
    def own_s(self) -> float:
        """Seconds without those in which the service was waited for."""
        return self.seconds - self.phases["wait"]


def workloads_rows(*, rows: int, small: int = 1) -> list[Row]:
    """Run both, check every key; `small` divides the limits of a batch."""
    limits = (MOST_ITEMS // small, MOST_BYTES // small)
    with tempfile.TemporaryDirectory() as name, server(Path(name), answer="{custom_id}") as running:
        folder = Path(name)
        source, output = folder / "rows.parquet", folder / "out.parquet"
        _write_rows(source, rows)
        ours = _run("bench.workload_client", [source, output, running.url, *limits])
        wrong = _wrong(source, output, str(ours.told["tag"]))
        plain = _run("bench.workload_plain", [source, folder / "plain.jsonl", running.url, CHUNK // small])
        plain_rows = sum(1 for _ in (folder / "plain.jsonl").open("rb"))
    assert plain_rows == rows, "the plain loop lost rows"
    return [*_told(rows, ours, plain), _split_row(ours.told["parts"], limits), _right_row(rows, wrong)]


def _told(rows: int, ours: Run, plain: Run) -> list[Row]:
    parts = ours.told["parts"]
    size = sum(one for _, one in parts) / MB
    sizes = {"prepare": size, "submit": size, "collect": ours.told["results"] / MB}
    return [
        Row(
            name=f"workload, {rows:,} rows, {size:,.0f} MB in {len(parts)} batches, Parquet to joined Parquet",
            ours=f"{ours.seconds:.0f} s, {ours.own_s:.0f} s of them not waiting",
            against=f"{plain.seconds:.0f} s, {plain.own_s:.0f} s of them; the SDK's loop, nothing kept on disk",
            ratio=f"{ours.own_s / plain.own_s:.2f}x without waits",
            target="≤ 1x",
            is_met=ours.own_s <= plain.own_s,
        ),
        Row(
            name="its phases",
            ours=_phases(ours.phases, sizes),
            against=_phases(plain.phases, {"submit": size}),
            ratio="",
            target="",
            is_met=True,
        ),
        Row(
            name="memory of the client over idle",
            ours=f"{ours.over_idle_mb:.0f} MB",
            against=f"{plain.over_idle_mb:,.0f} MB",
            ratio=f"{ours.over_idle_mb / plain.over_idle_mb:.2f}x",
            target=f"≤ {MOST_MB:.0f} MB",
            is_met=ours.over_idle_mb <= MOST_MB,
        ),
    ]


def _phases(phases: dict[str, float], sizes: dict[str, float]) -> str:
    told = []
    for name in ("prepare", "submit", "wait", "collect", "join"):
        if name in phases:
            rate = f" ({sizes[name] / phases[name]:,.0f} MB/s)" if sizes.get(name) and phases[name] else ""
            told.append(f"{name} {phases[name]:.1f} s{rate}")
    return ", ".join(told)


def _split_row(parts: Sequence[tuple[int, int]], limits: tuple[int, int]) -> Row:
    """Tell which limit ended each batch; the first is the canary, the last what was left."""
    items, size = limits
    longest = LONG * 1.2
    full = [one for one in parts[1:-1] if one[0] == items]
    heavy = [one for one in parts[1:-1] if one[0] < items and size - longest < one[1] <= size]
    is_met = bool(full and heavy) and len(full) + len(heavy) == len(parts) - 2
    is_met = is_met and all(one[0] <= items and one[1] <= size for one in parts)
    return Row(
        name="its batches",
        ours=f"a canary of {parts[0][0]}, {len(full)} full of rows, {len(heavy)} full of bytes, a rest",
        against=f"at most {items:,} rows and {size:,} bytes",
        ratio="",
        target="each full by one limit",
        is_met=is_met,
    )


def _right_row(rows: int, wrong: dict[str, int]) -> Row:
    return Row(
        name="joined rows, every key, text and answer compared",
        ours=f"{wrong['rows']:,} rows; wrong: {wrong['keys']} keys, {wrong['texts']} texts, {wrong['answers']} answers",
        against=f"{rows:,} rows",
        ratio="",
        target="all right",
        is_met=wrong == {"rows": rows, "keys": 0, "texts": 0, "answers": 0},
    )


def _write_rows(path: Path, rows: int) -> None:
    """Write texts that differ from each other."""
    size = f"CASE WHEN i < {rows // 2} THEN {SHORT} ELSE {LONG} END"
    text = f"left(repeat(md5(i::VARCHAR) || ' ', 92), {size})"
    query = f"SELECT i AS id, {text} AS text FROM range({rows}) r(i)"  # noqa: S608 - numbers of ours
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 4096)")


def _run(module: str, arguments: Sequence[object]) -> Run:
    """Let a client load what it needs, watch it from there to its end."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "idle\n", "the client did not start"
        with memory_of(client.pid, every_s=0.1) as watch:
            began = time.perf_counter()
            client.stdin.write("\n")
            client.stdin.flush()
            said = client.stdout.readline()
            seconds = time.perf_counter() - began
        assert client.wait() == 0, f"{module} failed"
    run = Run(seconds=seconds, over_idle_mb=watch.over_idle_mb, told=json.loads(said))
    print(f"  {module}: {seconds:.0f} s, {run.over_idle_mb:.0f} MB, {_phases(run.phases, {})}", file=sys.stderr)
    return run


def _wrong(source: Path, output: Path, tag: str) -> dict[str, int]:
    """Compare every row with the one that went in, and its answer with the name of its own request."""
    query = (
        "SELECT s.id, o.id = s.id, o.text = s.text, o.answer, o.status "  # noqa: S608 - paths of ours
        f"FROM '{source}' s FULL JOIN '{output}' o USING (id)"
    )
    wrong = {"rows": 0, "keys": 0, "texts": 0, "answers": 0}
    with duckdb.connect(":memory:") as connection:
        found = connection.execute(query)
        while some := found.fetchmany(10_000):
            for key, is_key, is_text, answer, status in some:
                wrong["rows"] += 1
                wrong["keys"] += not is_key
                wrong["texts"] += not is_text
                wrong["answers"] += status != "succeeded" or answer != custom_id(tag, hash_of(str(key)))
    return wrong
