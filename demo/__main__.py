"""`make demo`: start a server of our own in an empty folder, let the nightly report run, and stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from anthropic import Anthropic, APIConnectionError, APIStatusError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo import nightly_report as report

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch
    from anthropic.types.messages.batch_create_params import Request

READY_S = 300
STOP_S = 60
STEPS = 8
PIPE_WIDTH = 120
console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def main() -> int:
    """Play the story once."""
    console.print("[bold]The nightly report[/], with the official Python SDK and a model that runs on this machine\n")
    with tempfile.TemporaryDirectory(prefix="standby-demo-") as folder, server(Path(folder)) as url:
        tell(Anthropic(base_url=url, api_key="any"))
    return 0


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run `standby serve` on a free port; give its address as soon as it is ready."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "standby", "serve", "--engine", "local", "--port", url.rpartition(":")[2]]
    with (folder / "log").open("wb") as log:
        # A model this small rambles unless it always takes its most likely word.
        calm = {**os.environ, "STANDBY_ENGINE_TEMPERATURE": "0"}
        process = subprocess.Popen([*command, "--data", str(folder / "data")], stdout=log, stderr=log, env=calm)
    try:
        with console.status(f"starting {' '.join(command[1:])} …"):
            seconds = wait_ready(process, url, folder / "log")
        console.print(f"server    {url}, ready after {seconds:.1f} s")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        finally:
            process.kill()


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> float:
    """Poll `/ready`; end the demo with the server's own words if it cannot start."""
    start = time.monotonic()
    probe = Anthropic(base_url=url, api_key="none", max_retries=0)
    while process.poll() is None and time.monotonic() - start < READY_S:
        with contextlib.suppress(APIConnectionError, APIStatusError):
            probe.get("/ready", cast_to=object)
            return time.monotonic() - start
        time.sleep(0.1)
    sys.exit(f"the server did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


def tell(client: Anthropic) -> None:
    """Submit, watch, ask in between, fetch, join, show."""
    model = client.models.list().data[0].id
    rows = report.read_accounts()
    requests = [report.to_request(row, model) for row in rows]
    requests.append(bad_request(rows[0], model))
    start = time.monotonic()
    batch = report.submit(client, requests)
    console.print(f"model     {model}")
    console.print(f"batch     {batch.id}: {len(requests)} requests accepted in {time.monotonic() - start:.3f} s")
    batch = watch(client, batch, model)
    seconds = time.monotonic() - start
    answers = dict(report.answers(client, batch))
    console.print(table(rows, answers))
    console.print(summary(batch, list(answers.values()), seconds))


def bad_request(row: report.Row, model: str) -> Request:
    """Make one request that cannot run, to see what becomes of it: its model does not exist."""
    return {**report.to_request(row, f"{model}-typo"), "custom_id": "deliberately-bad"}


def watch(client: Anthropic, batch: MessageBatch, model: str) -> MessageBatch:
    """Say how far the batch is while polling, and ask a live question once a quarter of it is done."""
    total = batch.request_counts.processing  # nothing has run yet
    start = time.monotonic()
    live = threading.Thread(target=say_live, args=(client, model), daemon=True)
    said = 0

    def on_progress(now: MessageBatch) -> None:
        nonlocal said
        done = total - now.request_counts.processing
        if done >= said + total // STEPS or (done > said and done == total):
            said = done
            console.print(f"progress  {done} of {total} after {time.monotonic() - start:.1f} s")
        if done >= total // 4 and live.ident is None:
            live.start()

    batch = report.wait(client, batch, on_progress)
    if live.ident is not None:
        live.join()
    return batch


def say_live(client: Anthropic, model: str) -> None:
    """Ask in real time, on the same model, while batch items are running."""
    text, seconds = report.ask_live(client, model)
    console.print(f"live      asked in the middle of the batch, answered in {seconds:.2f} s: {text}")


def table(rows: list[report.Row], answers: dict[str, report.Answer]) -> Table:
    """Join the answers with the rows that they belong to, and put those without a row at the end."""
    shown = Table("id", "account", "people", "answer", box=None, padding=(0, 1), header_style="bold")
    for row in rows:
        shown.add_row(row["id"], row["account"], f"{row['active']}/{row['seats']}", cell(answers[row["id"]]))
    for custom_id in answers.keys() - {row["id"] for row in rows}:
        shown.add_row(custom_id, "", "", cell(answers[custom_id]))
    return shown


def cell(answer: report.Answer) -> Text:
    """Write an answer, or why there is none."""
    return Text(answer.error, "red") if answer.error else Text(answer.text)


def summary(batch: MessageBatch, answers: list[report.Answer], seconds: float) -> str:
    """Counts, tokens and time, as the server reported them."""
    counts = batch.request_counts
    read, cached, written = (
        sum(getattr(answer, column) for answer in answers)
        for column in ("input_tokens", "cached_tokens", "output_tokens")
    )
    return (
        f"\ncounts    {counts.succeeded} succeeded, {counts.errored} errored, {counts.canceled} canceled, "
        f"{counts.expired} expired\n"
        f"tokens    {read:,} in ({cached:,} of them from the prefix cache), {written:,} out\n"
        f"time      {seconds:.1f} s from create to ended: {written / seconds:.0f} tokens/s"
    )


if __name__ == "__main__":
    sys.exit(main())
