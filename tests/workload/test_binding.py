"""A job and the workspace that it belongs to, on a real server with two workspaces."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anthropic
import pytest

from standby import workload
from standby.cli import main
from standby.workload.binding import Binding
from standby.workload.faults import LocalState
from standby.workload.jobfile import JobFile
from standby.workload.states import PartState
from tests.harness import ServerProcess
from tests.workload.conftest import MODEL, write_rows

ASK = ("-m", MODEL, "-p", "Say {{ text }}", "--max-tokens", "300", "-o", "out.csv", "--poll", "0.05", "--settle", "0.1")
PACE = ("--poll", "0.05", "--settle", "0.1")
ORGANIZATION, WORKSPACE = "anthropic-organization-id", "anthropic-workspace-id"
Run = Callable[..., tuple[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """A server with a key in each of two workspaces."""

    url: str
    ours: str
    theirs: str

    def client(self, key: str) -> anthropic.Anthropic:
        """Connect with one of the keys."""
        return anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0)


def standby(*command: str) -> str:
    """Run the command line and return what it says."""
    done = subprocess.run([sys.executable, "-m", "standby", *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """One server for all tests of this file."""
    place = ("--data", str(tmp_path_factory.mktemp("two") / "data"))
    keys = {}
    for name in ("ours", "theirs"):
        standby("workspaces", "create", *place, name)
        keys[name] = standby("keys", "create", *place, "--workspace", name, name)
    with ServerProcess(Path(place[1])) as server:
        yield Two(url=server.url, **keys)


@pytest.fixture
def run(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command with a key; return its code and all that it said."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", two.url)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "in.jsonl", 3)

    def once(key: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return once


@pytest.mark.parametrize("command", ["run", "watch", "collect", "retry", "cancel"])
def test_a_key_of_another_workspace_changes_nothing(run: Run, two: Two, command: str) -> None:
    """8: it says whose the job is; with the right key the same command goes on, and no batch was made elsewhere."""
    assert run(two.ours, "submit", "in.jsonl", *ASK)[0] == 0
    arguments = ("in.jsonl", *ASK) if command == "run" else ("out.csv", *(() if command == "cancel" else PACE))
    before = len(two.client(two.theirs).messages.batches.list().data)
    code, said = run(two.theirs, command, *arguments)
    assert (code, "the job belongs to workspace wrkspc_" in said) == (8, True), said
    assert len(two.client(two.theirs).messages.batches.list().data) == before
    assert run(two.ours, "watch", "out.csv", *PACE)[0] == 0
    found = json.loads(run(two.ours, "report", "out.csv", "--json")[1])
    assert (found["succeeded"], found["failed"]) == (3, {})


def test_a_batch_that_was_deleted_in_the_jobs_own_workspace_is_gone(run: Run, two: Two) -> None:
    """Its own workspace says so: its rows are named missing."""
    run(two.ours, "submit", "in.jsonl", *ASK)
    client = two.client(two.ours)
    batch = client.messages.batches.list().data[0].id
    while client.messages.batches.retrieve(batch).processing_status != "ended":
        pass
    client.messages.batches.delete(batch)
    assert run(two.ours, "watch", "out.csv", *PACE)[0] == 6
    assert json.loads(run(two.ours, "report", "out.csv", "--json")[1])["failed"] == {"missing": 3}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobFile]:
    """Open a job with one part that was not sent."""
    source = workload.Source(kind="file", where=str(write_rows(tmp_path / "in.jsonl", 3)))
    spec = workload.Spec(source=source, output=str(tmp_path / "out.csv"), model=MODEL, prompt="Say {{ text }}")
    with workload.opened_job(spec, endpoint="http://x") as opened:
        workload.prepare_job(opened)
        yield opened


def test_the_first_answer_binds_a_new_job(job: JobFile) -> None:
    """Also one of another organization is refused then."""
    Binding(job).heed({ORGANIZATION: "o", WORKSPACE: "w"})
    assert (job.meta("organization"), job.meta("workspace")) == ("o", "w")
    Binding(job).heed({})
    with pytest.raises(LocalState, match="belongs to organization o, and this key to p"):
        Binding(job).heed({ORGANIZATION: "p", WORKSPACE: "w"})


def test_a_job_that_was_sent_before_is_bound_by_its_own_batches_only(job: JobFile) -> None:
    """The list of batches proves nothing: any workspace has one."""
    job.move(job.parts()[0], PartState.SENDING, anchor=None)
    Binding(job).heed({WORKSPACE: "w"})
    assert job.meta("workspace", "") == ""
    Binding(job).heed({WORKSPACE: "w"}, is_proof=True)
    assert job.meta("workspace") == "w"


def test_without_a_name_nobody_is_believed_that_a_batch_is_gone(job: JobFile) -> None:
    """Unless the user says so: a service between may take the headers away."""
    with pytest.raises(LocalState, match="does not know msgbatch_1"):
        Binding(job).check_unknown("msgbatch_1", {})
    Binding(job).heed({WORKSPACE: "w"})
    with pytest.raises(LocalState, match="--gone"):
        Binding(job).check_unknown("msgbatch_1", {})
    Binding(job).check_unknown("msgbatch_1", {WORKSPACE: "w"})
    job.note(gone="1")
    Binding(job).check_unknown("msgbatch_1", {})


async def test_calls_of_an_earlier_run_belong_to_its_workspace(two: Two, tmp_path: Path) -> None:
    """With another key they are neither believed lost nor sent again; with the right one they have their answers."""

    def program(key: str) -> workload.AsyncBatches:
        pace = workload.Pace(first_poll_s=0.05, settle_s=0.2, look_s=0.05)
        return workload.AsyncBatches(
            base_url=two.url, api_key=key, window=0.02, folder=tmp_path / "kept", pace=pace, max_retries=0
        )

    async def ask(client: workload.AsyncBatches) -> anthropic.types.Message:
        words = [{"role": "user", "content": "of an earlier run"}]
        return await client.messages.create(model=MODEL, max_tokens=20, messages=words)  # type: ignore[arg-type]

    def made(key: str) -> int:
        return len(two.client(key).messages.batches.list(limit=100).data)

    before = made(two.ours), made(two.theirs)
    async with program(two.ours) as client:
        asking = asyncio.create_task(ask(client))
        while await asyncio.to_thread(made, two.ours) == before[0]:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.01)
        asking.cancel()
    async with program(two.theirs) as client:
        with pytest.raises(workload.NotBatched, match=r"of workspace wrkspc_.*with a key of that workspace"):
            await ask(client)
    assert (made(two.ours), made(two.theirs)) == (before[0] + 1, before[1])
    async with program(two.ours) as client:
        assert (await ask(client)).role == "assistant"
    assert (made(two.ours), made(two.theirs)) == (before[0] + 1, before[1])
