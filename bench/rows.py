"""The rows of the table. Each runs both sides in turn, several times, and says a ratio."""

from __future__ import annotations

import http.client
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.bare import dispatch_bare
from bench.bodies import take_in_bare, write_body
from bench.measure import MB, cpu_s, memory_of, percentile, spread, timed
from tests.harness import HEADERS, ServerProcess, call, free_port, retrieve, wait_ended, wait_until

SLOTS = 64
QUIET = {"log": {"level": "warning"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: min / median / max of the runs."""

    name: str
    ours: str
    against: str
    ratio: str
    target: str
    is_met: bool


@contextmanager
def server(folder: Path, **settings: object) -> Iterator[ServerProcess]:
    """Start a server with the simulator at zero latency."""
    config: dict[str, dict[str, object]] = {"simulator": {"slots": SLOTS, **settings}, "log": {"level": "warning"}}
    with ServerProcess(folder / "data", config=config) as running:
        yield running


def create_rows(runs: int, *, items: int, item_bytes: int) -> list[Row]:
    """Create 100k / 250 MB: seconds and memory, and what a live client feels meanwhile."""
    ours, bare, memory, alone, during = [], [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_body(folder / "body", items=items, item_bytes=item_bytes)
        for run in range(runs):
            bare.append(timed(lambda: take_in_bare(folder / "body", folder / "copy"))[0])
            (folder / "copy").unlink()
            # each instrument has its own upload: watching memory costs the watched process time
            with server(folder / f"timed{run}") as running:
                seconds, batch_id = timed(lambda: upload(running, folder / "body"))
                ours.append(seconds)
                end(running, batch_id)
                alone.append(_probe(running, 3.0)(math.inf))
                finish = _probe(running, 2 * seconds)
                batch_id = upload(running, folder / "body")
                during.append(finish(time.perf_counter()))
                end(running, batch_id)
            with server(folder / f"watched{run}") as running, memory_of(running.pid) as watch:
                end(running, upload(running, folder / "body"))
            memory.append(watch.over_idle_mb)
    ratios = [mine / other for mine, other in zip(ours, bare, strict=True)]
    added = [percentile(b, 0.99) - percentile(a, 0.99) for a, b in zip(alone, during, strict=True)]
    what = f"{items:,} items, {size / MB:.0f} MB"
    return [
        Row(
            name=f"create, {what}",
            ours=spread(ours, " s"),
            against=spread(bare, " s") + " decode + write + fsync",
            ratio=spread(ratios, "x"),
            target="≤ 3x",
            is_met=statistics.median(ratios) <= 3,
        ),
        Row(
            name="memory over idle, all processes",
            ours=spread(memory, " MB", 0),
            against=f"{size / MB:.0f} MB body",
            ratio=spread([mb / (size / MB) for mb in memory], "x"),
            target="≤ 300 MB",
            is_met=max(memory) <= 300,
        ),
        Row(
            name="live p99 during that create",
            ours=spread([percentile(values, 0.99) for values in during], " ms", 1),
            against=spread([percentile(values, 0.99) for values in alone], " ms", 1) + " alone",
            ratio=spread(added, " ms added", 1),
            target="≤ 20 ms added",
            is_met=statistics.median(added) <= 20,
        ),
    ]


def results_row(runs: int, *, items: int) -> list[Row]:
    """Download results, against the same bytes as a static file from the same HTTP server."""
    ours, static = [], []
    with tempfile.TemporaryDirectory() as name, server(Path(name), answer_tokens=400) as running:
        folder = Path(name)
        write_body(folder / "body", items=items, item_bytes=200)
        batch_id = upload(running, folder / "body", max_tokens=400)
        wait_ended(running, batch_id, timeout=600)
        path = f"/v1/messages/batches/{batch_id}/results"
        (folder / "results").write_bytes(call(running, "GET", path, timeout=600).body)
        size = (folder / "results").stat().st_size
        with _static(folder / "results") as port:
            for _ in range(runs):
                ours.append(_download(running.port, path))
                static.append(_download(port, "/file"))
    ratios = [mine / other for mine, other in zip(ours, static, strict=True)]
    return [
        Row(
            name=f"results, {size / MB:.0f} MB in {items:,} rows, checksums verified",
            ours=spread(ours, " MB/s", 0),
            against=spread(static, " MB/s", 0) + " static file",
            ratio=spread([100 * ratio for ratio in ratios], " %", 0),
            target="≥ 50 %",
            is_met=statistics.median(ratios) >= 0.5,
        )
    ]


def dispatch_row(runs: int, *, items: int) -> list[Row]:
    """Run a batch on an engine that takes no time: durable items a second, processor time an item."""
    ours, bare, cpu, bare_cpu = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_body(folder / "body", items=items, item_bytes=500)
        raw = [json.dumps(entry).encode() for entry in json.loads((folder / "body").read_bytes())["requests"]]
        for run in range(runs):
            seconds, spent = dispatch_bare(raw, folder / "rows", slots=SLOTS)
            bare.append(items / seconds)
            bare_cpu.append(1000 * spent / items)
            with server(folder / f"run{run}") as running:
                before = cpu_s(running.pid)
                seconds, _ = timed(lambda: wait_ended_gently(running, upload(running, folder / "body")))
                ours.append(items / seconds)
                cpu.append(1000 * (cpu_s(running.pid) - before) / items)
    return [
        Row(
            name=f"dispatch, no-op engine, {items:,} items, create to end",
            ours=spread(ours, " items/s", 0),
            against=spread(bare, " items/s", 0) + " bare loop",
            ratio=spread([100 * a / b for a, b in zip(ours, bare, strict=True)], " %", 0),
            target="≥ 1,500 items/s",
            is_met=statistics.median(ours) >= 1500,
        ),
        Row(
            name="processor time an item",
            ours=spread(cpu, " ms", 3),
            against=spread(bare_cpu, " ms", 3) + " bare loop",
            ratio=spread([a / b for a, b in zip(cpu, bare_cpu, strict=True)], "x"),
            target="≤ 1 ms (limit 3 ms)",
            is_met=statistics.median(cpu) <= 1,
        ),
    ]


def emulator_rows(runs: int, *, items: int) -> list[Row]:
    """Test with a batch of the largest size against the emulator as it is: create, wait, all results."""
    create, wait, whole = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_body(folder / "body", items=items, item_bytes=200)
        for run in range(runs):
            with ServerProcess(folder / f"run{run}", emulator=True, config=QUIET) as running:
                began = time.perf_counter()
                seconds, batch_id = timed(lambda: upload(running, folder / "body"))
                create.append(seconds)
                wait.append(timed(lambda: wait_ended_gently(running, batch_id))[0])  # noqa: B023 - called at once
                rows = call(running, "GET", f"/v1/messages/batches/{batch_id}/results", timeout=600).body
                whole.append(time.perf_counter() - began)
                assert rows.count(b"\n") == rows.count(b'"type":"succeeded"') == items, "rows are missing"
    return [
        Row(
            name=f"emulator, {items:,} items, create to results, its own defaults",
            ours=spread(whole, " s"),
            against=spread(create, " s") + " create, " + spread(wait, " s") + " run",
            ratio=spread([items / seconds for seconds in whole], " items/s", 0),
            target="≤ 60 s",
            is_met=statistics.median(whole) <= 60,
        )
    ]


def growth_rows(*, sizes: tuple[int, ...]) -> list[Row]:
    """Seconds and memory from 1k to 100k items, against a straight line through the middle size."""
    create, run, memory = {}, {}, {}
    for items in sizes:
        with tempfile.TemporaryDirectory() as name, server(Path(name)) as running:
            body = Path(name) / "body"
            write_body(body, items=items, item_bytes=1000)
            with memory_of(running.pid) as watch:
                create[items], batch_id = timed(lambda: upload(running, body))  # noqa: B023 - called at once
                run[items], _ = timed(lambda: wait_ended_gently(running, batch_id))  # noqa: B023 - called at once
            memory[items] = watch.over_idle_mb
    most, middle = sizes[-1], sizes[-2]
    growth = (run[most] / most) / (run[middle] / middle)
    return [
        Row(
            name="growth over " + " / ".join(f"{items:,}" for items in sizes) + " items",
            ours="run " + " / ".join(f"{run[items]:.2f}" for items in sizes) + " s",
            against="create " + " / ".join(f"{create[items]:.2f}" for items in sizes) + " s",
            ratio=f"{growth:.2f}x a straight line",
            target="≤ 1.3x",
            is_met=growth <= 1.3,
        ),
        Row(
            name="memory over idle at those sizes",
            ours=" / ".join(f"{memory[items]:.0f}" for items in sizes) + " MB",
            against="",
            ratio="",
            target="≤ 300 MB",
            is_met=max(memory.values()) <= 300,
        ),
    ]


def upload(running: ServerProcess, body: Path, *, max_tokens: int | None = None) -> str:
    """Create a batch from a file, streamed; return its id."""
    if max_tokens is not None:
        body.write_bytes(body.read_bytes().replace(b'"max_tokens": 64', b'"max_tokens": %d' % max_tokens))
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=600, blocksize=1 << 20)
    headers = {**HEADERS, "content-type": "application/json", "content-length": str(body.stat().st_size)}
    with body.open("rb") as file:
        connection.request("POST", "/v1/messages/batches", body=file, headers=headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
    assert answer.status == 200, document
    return str(document["id"])


def end(running: ServerProcess, batch_id: str) -> None:
    """Cancel a batch and wait for its end."""
    call(running, "POST", f"/v1/messages/batches/{batch_id}/cancel")
    wait_ended_gently(running, batch_id)


def wait_ended_gently(running: ServerProcess, batch_id: str) -> None:
    """Poll ten times a second, so that polling is no load."""
    wait_until(
        lambda: bool(retrieve(running, batch_id)["processing_status"] == "ended"), 900, "it did not end", every=0.1
    )


def _probe(running: ServerProcess, seconds: float) -> Callable[[float], list[float]]:
    """Start a live client; the function returned waits for its end and gives the latencies up to a moment."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.prober", str(running.port), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", "the live client never got an answer"

    def finish(until: float) -> list[float]:
        out, _ = process.communicate()
        assert process.returncode == 0, "the live client failed"
        lines = [line.split() for line in out.splitlines()]
        return [float(latency) for sent, latency in lines if float(sent) < until]

    return finish


def _download(port: int, path: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "bench.download", str(port), path], capture_output=True, text=True, check=True
    )
    seconds, size = done.stdout.split()
    return int(size) / MB / float(seconds)


@contextmanager
def _static(path: Path) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.static", str(port), str(path)])
    try:
        wait_until(lambda: _answers(port), 30, "the static server never answered")
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return call(f"http://127.0.0.1:{port}", "HEAD", "/file").status == 200
    except Exception:  # noqa: BLE001 - not up yet
        return False
