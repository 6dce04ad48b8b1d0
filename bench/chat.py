"""The chat adapter, and the whole server, beside a bare client of the same engine: one process of the real one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.chat_client import OUTPUT, item_params
from bench.measure import cpu_s, spread
from bench.rows import Row, wait_ended_gently
from standby.engines.model_file import find_model, model_name
from tests.harness import ServerProcess, create, results

READY_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of one side came to."""

    tokens_s: float
    cpu_ms: float
    """Processor time of the client an item, or of the server's process."""


def chat_rows(runs: int, *, items: int, window: int) -> list[Row]:
    """Run the three in turn, each first as often as last; every run has prompts that the engine has not seen."""
    sides: dict[str, list[Run]] = {"bare": [], "adapter": [], "server": []}
    with tempfile.TemporaryDirectory() as name, engine(slots=window) as url, server(Path(name), url, window) as running:
        measure: dict[str, Callable[[int], Run]] = {
            "bare": lambda seed: run_client("bare", url, window, items, seed),
            "adapter": lambda seed: run_client("adapter", url, window, items, seed),
            "server": lambda seed: run_batch(running, items, seed),
        }
        for warm_up in measure.values():
            warm_up(0)
        for run in range(runs):
            order = list(measure)
            order = order[run % 3 :] + order[: run % 3]
            for place, side in enumerate(order):
                sides[side].append(measure[side](1 + 3 * run + place))
    return table_rows(sides["bare"], sides["adapter"], sides["server"], what=f"{items} items, {window} at once")


def table_rows(bare: list[Run], adapter: list[Run], whole: list[Run], *, what: str) -> list[Row]:
    """Compare run by run."""
    lost = [100 * (1 - ours.tokens_s / other.tokens_s) for ours, other in zip(adapter, bare, strict=True)]
    whole_lost = [100 * (1 - ours.tokens_s / other.tokens_s) for ours, other in zip(whole, bare, strict=True)]
    against = spread([run.tokens_s for run in bare], " tokens/s", 0)
    return [
        Row(
            name=f"chat adapter on the embedded engine, {what}",
            ours=spread([run.tokens_s for run in adapter], " tokens/s", 0),
            against=f"{against} bare asyncio client",
            ratio=spread(lost, " % lost", 1),
            target="≤ 3 %",
            is_met=statistics.median(lost) <= 3,
        ),
        Row(
            name=f"its processor time an item ({OUTPUT} tokens)",
            ours=spread([run.cpu_ms for run in adapter], " ms"),
            against=spread([run.cpu_ms for run in bare], " ms") + " bare asyncio client",
            ratio=spread([ours.cpu_ms / other.cpu_ms for ours, other in zip(adapter, bare, strict=True)], "x"),
            target="",
            is_met=True,
        ),
        Row(
            name="the whole server on that engine: a batch of these, create to end",
            ours=spread([run.tokens_s for run in whole], " tokens/s", 0),
            against=f"{against} bare asyncio client",
            ratio=spread(whole_lost, " % lost", 1),
            target="",
            is_met=True,
        ),
    ]


@contextmanager
def engine(*, slots: int) -> Iterator[str]:
    """Start the embedded engine's host; yield its URL."""
    model = find_model("")
    command = [sys.executable, "-m", "standby.host", "--watch-stdin", "--slots", str(slots)]
    command += ["--model", str(model), "--name", model_name(model)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("{"), "the engine host did not start"
        yield f"http://127.0.0.1:{json.loads(line)['port']}"
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def server(folder: Path, url: str, window: int) -> Iterator[ServerProcess]:
    """Start a server that keeps as many items in flight on that engine as the clients do."""
    config: dict[str, dict[str, object]] = {"worker": {"window": window}, "log": {"level": "warning"}}
    with ServerProcess(folder / "data", engine=url, config=config) as running:
        yield running


def run_client(side: str, url: str, window: int, items: int, seed: int) -> Run:
    """Run one of the clients in a process of its own."""
    command = [sys.executable, "-m", "bench.chat_client", side, url, str(window), str(items), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, cpu, tokens = (float(figure) for figure in done.stdout.split())
    return Run(tokens_s=tokens / seconds, cpu_ms=1000 * cpu / items)


def run_batch(running: ServerProcess, items: int, seed: int) -> Run:
    """Run a batch over HTTP, from its create to its end, the end seen within a tenth of a second."""
    requests = [{"custom_id": f"item-{n}", "params": item_params(n, seed=seed)} for n in range(items)]
    cpu, start = cpu_s(running.pid), time.perf_counter()
    batch_id = create(running, requests)["id"]
    wait_ended_gently(running, batch_id)
    seconds, cpu = time.perf_counter() - start, cpu_s(running.pid) - cpu
    rows = results(running, batch_id).values()
    tokens = sum(row["message"]["usage"]["output_tokens"] for row in rows)
    return Run(tokens_s=tokens / seconds, cpu_ms=1000 * cpu / items)
