"""The chat adapter, and the whole server, beside a bare client of the same engine; small enough for three minutes."""

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
    together_ms: float = 0.0
    """Processor time of client and engine an item."""


def chat_rows(pairs: int, *, items: int, window: int) -> list[Row]:
    """Compare on the real engine, then on a source of answers that takes no processor time from its clients."""
    what = f"{items} items of {OUTPUT} tokens, {window} at once"
    with tempfile.TemporaryDirectory() as name, engine(slots=window) as (url, pid):
        run_client("bare", url, window, window, seed=0)
        real = in_turn(pairs, lambda side, seed: run_client(side, url, window, items, seed, engine=pid))
        with server(Path(name), url, window) as running:
            run_batch(running, 1, seed=-1)
            whole = run_batch(running, items, seed=-2)
    with source() as url:
        alone = in_turn(pairs, lambda side, seed: run_client(side, url, window, 5 * items, seed))
    name = f"chat adapter on the embedded engine, {what}"
    return [lost_row(name, real), share_row(alone, real), cpu_row(alone), whole_row(whole, real)]


def in_turn(pairs: int, measure: Callable[[str, int], Run]) -> dict[str, list[Run]]:
    """Run both clients in turn, each first as often as last; every run has prompts that the engine has not seen."""
    runs: dict[str, list[Run]] = {"bare": [], "adapter": []}
    for pair in range(pairs):
        order = list(runs) if pair % 2 else list(reversed(runs))
        for place, side in enumerate(order):
            runs[side].append(measure(side, 1 + 2 * pair + place))
    return runs


def lost_row(name: str, runs: dict[str, list[Run]]) -> Row:
    """Compare pair by pair: what the adapter loses of the bare client's tokens."""
    lost = [100 * (1 - our.tokens_s / other.tokens_s) for our, other in zip(runs["adapter"], runs["bare"], strict=True)]
    return Row(
        name=name,
        ours=spread([run.tokens_s for run in runs["adapter"]], " tokens/s", 0),
        against=spread([run.tokens_s for run in runs["bare"]], " tokens/s", 0) + " bare asyncio client",
        ratio=spread(lost, " % lost", 1),
        target="≤ 3 %",
        is_met=statistics.median(lost) <= 3,
    )


def share_row(alone: dict[str, list[Run]], real: dict[str, list[Run]]) -> Row:
    """Compare what the adapter takes beyond the bare client with all that an item takes, engine included.

    On a machine that the engine fills, this is what the adapter can cost it. Both figures are processor time, and the
    difference is taken where no engine blurs it: nothing else that the machine did meanwhile is in it.
    """
    ours, bare = (statistics.median(run.cpu_ms for run in alone[side]) for side in ("adapter", "bare"))
    whole = statistics.median(run.together_ms for run in real["bare"])
    lost = 100 * (ours - bare) / whole
    return Row(
        name="processor time of the adapter beyond the bare client's, an item, of all that engine and client take",
        ours=f"{ours - bare:.2f} ms",
        against=f"{whole:.0f} ms engine and bare asyncio client",
        ratio=f"{lost:.2f} %",
        target="≤ 3 %",
        is_met=lost <= 3,
    )


def cpu_row(runs: dict[str, list[Run]]) -> Row:
    """Compare what the clients themselves take where nothing else runs."""
    times = [our.cpu_ms / other.cpu_ms for our, other in zip(runs["adapter"], runs["bare"], strict=True)]
    return Row(
        name=f"its processor time an item ({OUTPUT} tokens, one a chunk), on a source that costs nothing",
        ours=spread([run.cpu_ms for run in runs["adapter"]], " ms"),
        against=spread([run.cpu_ms for run in runs["bare"]], " ms") + " bare asyncio client",
        ratio=spread(times, "x"),
        target="",
        is_met=True,
    )


def whole_row(whole: Run, runs: dict[str, list[Run]]) -> Row:
    """Show one batch through the whole server beside the bare client."""
    bare = statistics.median(run.tokens_s for run in runs["bare"])
    return Row(
        name="the whole server on that engine: one batch of these, create to end",
        ours=f"{whole.tokens_s:.0f} tokens/s, {whole.cpu_ms:.1f} ms an item",
        against=f"{bare:.0f} tokens/s bare asyncio client",
        ratio=f"{100 * (1 - whole.tokens_s / bare):.1f} % lost",
        target="",
        is_met=True,
    )


@contextmanager
def engine(*, slots: int) -> Iterator[tuple[str, int]]:
    """Start the embedded engine's host; yield its URL and its process id."""
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
        yield f"http://127.0.0.1:{json.loads(line)['port']}", process.pid
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def source() -> Iterator[str]:
    """Start the source of answers; yield its URL."""
    command = [sys.executable, "-m", "bench.chat_source"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()
            process.kill()


@contextmanager
def server(folder: Path, url: str, window: int) -> Iterator[ServerProcess]:
    """Start a server that keeps as many items in flight on that engine as the clients do."""
    worker: dict[str, object] = {"admission": "fixed", "window": window}
    config: dict[str, dict[str, object]] = {"worker": worker, "log": {"level": "warning"}}
    with ServerProcess(folder / "data", engine=url, config=config) as running:
        yield running


def run_client(side: str, url: str, window: int, items: int, seed: int, *, engine: int = 0) -> Run:
    """Run one of the clients in a process of its own; `engine` is the process id of what it asks, if that counts."""
    command = [sys.executable, "-m", "bench.chat_client", side, url, str(window), str(items), str(seed)]
    before = cpu_s(engine) if engine else 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, cpu, tokens = (float(figure) for figure in done.stdout.split())
    together = cpu + cpu_s(engine) - before if engine else 0.0
    return Run(tokens_s=tokens / seconds, cpu_ms=1000 * cpu / items, together_ms=1000 * together / items)


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
