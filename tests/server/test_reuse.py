"""What an engine reused, from its cache to whoever asks: a real server on a socket, over a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from standby.cli import standby
from tests.harness import ServerProcess, call, cancel, create, item, metrics, results, retrieve, wait_ended, wait_until

ITEMS = 160
RULES = "Read the report below and name its subject, its author and the year in which it was written. " * 24
VLLM = {"simulator": {"profile": "vllm", "slots": 8, "answer_tokens": 24, "script": "held=never"}}


def items(*, marked: bool = False) -> list[dict[str, Any]]:
    """Questions about the same rules; only some clients say so."""
    rules: dict[str, Any] = {"type": "text", "text": RULES}
    if marked:
        rules["cache_control"] = {"type": "ephemeral"}
    return [item(f"i{n}", f"Report {n}: " + f"line {n} " * 8, system=[rules], max_tokens=24) for n in range(ITEMS)]


def reuse_of(server: ServerProcess, batch_id: str, *, of: str = "") -> Any:
    """Ask what is known of its prompts."""
    return call(server, "GET", f"/standby/v1/batches/{batch_id}{of}").ok()["reuse"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str]]:
    """A server and a batch without breakpoints that has ended, with a SIGKILL in the middle."""
    folder: Path = tmp_path_factory.mktemp("reuse")
    with ServerProcess(folder / "data", config=VLLM) as server:
        batch_id = create(server, items())["id"]
        wait_until(
            lambda: retrieve(server, batch_id)["request_counts"]["succeeded"] >= ITEMS // 4, 60, "nothing was done"
        )
        server.kill()
        server.restart()
        server.wait_ready()
        assert retrieve(server, batch_id)["processing_status"] == "in_progress"
        wait_ended(server, batch_id)
        yield server, batch_id


def test_a_client_that_marks_nothing_is_billed_nothing_and_operators_see_what_was_reused(
    killed: tuple[ServerProcess, str],
) -> None:
    """After a kill, too: near the bound by the engine's count, while no usage names a cache read."""
    server, batch_id = killed
    reuse, cost = reuse_of(server, batch_id), reuse_of(server, batch_id, of="/cost")

    usages = [row["message"]["usage"] for row in results(server, batch_id).values()]
    assert len(usages) == ITEMS
    assert {usage["cache_read_input_tokens"] for usage in usages} == {0}
    assert (reuse["billed_share"], reuse["cached_share"], cost["read_share"]) == (0.0, 0.0, 0.0)
    assert reuse["bound"] > 0.8
    assert reuse["engine_share"] == cost["engine_share"] == pytest.approx(reuse["bound"], abs=0.06)


def test_the_engines_share_counts_every_result_once(killed: tuple[ServerProcess, str]) -> None:
    """What is told of stands in the database beside the results: the prompts of all rows, whichever life made them."""
    server, batch_id = killed
    usages = [row["message"]["usage"] for row in results(server, batch_id).values()]
    share, prompts = reuse_of(server, batch_id)["engine_share"], sum(usage["input_tokens"] for usage in usages)
    alone = max(usage["input_tokens"] for usage in usages)
    # two lives, each with a cache that was empty and eight slots: what they had to compute is more than two prompts
    assert 2 * alone / prompts < 1 - share < 0.2


def test_metrics_show_what_an_endpoint_reused(killed: tuple[ServerProcess, str]) -> None:
    """A pair of counters by endpoint, of this life of the server."""
    seen = metrics(killed[0])
    prompts, reused = (
        seen[f'standby_endpoint_{name}_tokens_total{{endpoint="engine"}}'] for name in ("prompt", "reused")
    )
    assert 0.8 < reused / prompts < 1


def test_the_terminal_shows_what_the_engine_reused(killed: tuple[ServerProcess, str]) -> None:
    """`standby top`, while a batch still runs: the engine's share beside the bound."""
    server, _ = killed
    batch_id = create(server, [*items(), item("held")])["id"]
    wait_until(lambda: retrieve(server, batch_id)["request_counts"]["succeeded"] == ITEMS, 60, "it never got so far")
    looked = CliRunner().invoke(standby, ["top", "--once", "--json", "--url", server.url])
    shown = CliRunner().invoke(standby, ["top", "--once", "--url", server.url], terminal_width=300)
    cancel(server, batch_id)

    (batch,) = json.loads(looked.output)["batches"]
    assert batch["reuse"]["engine_share"] > 0.8
    share, bound = (f"{100 * batch['reuse'][name]:.0f} %" for name in ("engine_share", "bound"))
    assert f"{share} {bound}" in " ".join(shown.output.split())


def test_breakpoints_bill_what_was_reused_up_to_them(killed: tuple[ServerProcess, str]) -> None:
    """The same prompts, marked: the bill follows the engine, and never exceeds it."""
    server, _ = killed
    batch_id = create(server, items(marked=True))["id"]
    wait_ended(server, batch_id)
    reuse = reuse_of(server, batch_id)
    assert 0.8 < reuse["billed_share"] <= reuse["engine_share"]
