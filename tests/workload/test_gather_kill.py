from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import threading
import time
from pathlib import Path
from typing import Any

import anthropic
import pytest

from standby import workload
from standby.testing import Emulator
from tests.harness import ServerProcess
from tests.workload import gathering_program
from tests.workload.conftest import MODEL, creates, quick
from tests.workload.gathering_program import CALLS

CYCLES = 6
MOST_DEATHS = 3
"""Of one program; then it is let live."""


@pytest.mark.kill
@pytest.mark.timeout(300)
def test_a_server_that_dies_in_the_middle_is_waited_for(tmp_path: Path) -> None:
    """Two thousand calls of an unchanged program: each has its answer or its error, and nothing is sent twice."""
    config = {"simulator": {"script": "*~/bad/=errored:invalid_request_error"}}
    with ServerProcess(tmp_path / "data", emulator=True, config=config) as server:
        answers = asyncio.run(_two_thousand(server))
        kinds = [type(answer) for answer in answers]
        made = [batch.request_counts for batch in _batches(server)]
    assert kinds == [
        anthropic.BadRequestError if number % 100 == 7 else anthropic.types.Message for number in range(2_000)
    ]
    assert sum(counts.succeeded for counts in made) == 1_980
    assert sum(counts.errored for counts in made) == 20


async def _two_thousand(server: ServerProcess) -> list[Any]:
    async with workload.AsyncBatches(
        base_url=server.url, api_key="x", window=0.2, max_items=700, pace=quick(patience_s=60.0)
    ) as client:

        async def ask(number: int) -> anthropic.types.Message:
            text = "bad" if number % 100 == 7 else f"question {number}"
            return await client.messages.create(
                model=MODEL, max_tokens=20, messages=[{"role": "user", "content": text}]
            )

        killer = threading.Thread(target=_kill_and_start_again, args=(server,))
        killer.start()
        answers = await asyncio.gather(*(ask(number) for number in range(2_000)), return_exceptions=True)
        await asyncio.to_thread(killer.join)
        return answers


def _kill_and_start_again(server: ServerProcess) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="x") as client:
        while not client.messages.batches.list(limit=1).data:
            time.sleep(0.01)
    server.kill()
    server.restart()


def _batches(server: ServerProcess) -> list[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="x") as client:
        return list(client.messages.batches.list(limit=100))


@pytest.mark.kill
@pytest.mark.timeout(300)
def test_a_program_that_dies_at_any_moment_pays_once(standby_emulator: Emulator, tmp_path: Path) -> None:
    """With a folder, the next run finds what was sent, whether or not the answer to its create came."""
    dice = random.Random(7)
    longest_s = _lifetime(standby_emulator, tmp_path / "whole", None)
    assert longest_s is not None
    deaths = 0
    for cycle in range(CYCLES):
        standby_emulator.reset()
        standby_emulator.fault(f"create=lost+chance:0.3+seed:{cycle}; results=cut_inside:10+chance:0.3+seed:{cycle}")
        for _ in range(MOST_DEATHS):
            if _lifetime(standby_emulator, tmp_path / str(cycle), dice.uniform(0, longest_s)) is not None:
                break
            deaths += 1
        else:
            assert _lifetime(standby_emulator, tmp_path / str(cycle), None) is not None
        made = [one for one in standby_emulator.requests if one.operation == "create" and one.batch_id]
        assert sum({one.batch_id: one.items for one in made}.values()) == CALLS
        assert creates(standby_emulator)
    assert deaths


def _lifetime(emulator: Emulator, folder: Path, kill_s: float | None) -> float | None:
    """Run the program, and kill it so long after it began to ask; return its lifetime from there, None if killed."""
    context = multiprocessing.get_context("forkserver")  # starts in no time what was imported once
    context.set_forkserver_preload([gathering_program.__name__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=gathering_program.main, args=(emulator.url, str(folder), theirs))
    process.start()
    theirs.close()
    with contextlib.closing(ours):
        assert ours.recv() == "begun"
        began = time.monotonic()
        process.join(120 if kill_s is None else kill_s)
        if process.is_alive():
            process.kill()
            process.join()
            return None
        assert process.exitcode == 0
        assert ours.recv() == CALLS
        return time.monotonic() - began
