"""Long stories in virtual time: limits, money, keys, and other people's hands. Each has an end that says what to do."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from standby import doors, workload
from standby.api.auth import digest, new_secret
from standby.config import load_settings
from standby.records import KeyId
from standby.server import open_store
from standby.testing import Emulator, emulator
from standby.workload.faults import NoAccess, Refused, Unavailable
from standby.workload.parts import Canary, Limits
from standby.workload.runner import Pace, View
from standby.workload.states import PartState
from tests.workload.conftest import creates, read
from tests.workload.proxy import NO_TROUBLE, Proxy, Request
from tests.workload.virtual import World, job_of

PARTS_OF_FOUR = Pace(limits=Limits(items=4))
HOURLY = Pace(first_poll_s=3600, retries=1)
SIX_FIRST = Pace(canary=Canary(items=6, above=7))
"""Six rows cost more than a limit of five and a half, two cost less."""
TWO_FIRST = Pace(canary=Canary(items=2, above=3))


def test_the_servers_queue_is_full(tmp_path: Path) -> None:
    """429 of the server's own limit: the part waits until there is room, however long that takes."""
    notes: list[str] = []
    with emulator(limits__enqueued_items=6, script="*=slow:20m") as server:
        service = workload.Service(server.client())
        with job_of(service, tmp_path, 12, PARTS_OF_FOUR) as job:
            report = World(server).run(job, service, PARTS_OF_FOUR, say=lambda view: notes.append(view.note))
        assert report["succeeded"] == 12
        assert len(creates(server)) == 3
        refused = [one for one in server.requests if one.operation == "create" and one.status == 429]
        assert 3 < len(refused) < 20
    assert any("no room" in note and "6" in note for note in notes)


def test_the_workspaces_spend_limit_is_reached(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """The command ends with the server's words; when the limit begins anew, the same command goes on."""
    standby_emulator.script("*=say:yes")
    with job_of(service, tmp_path, 6) as job:
        row_pico = World(standby_emulator).run(job, service)["cost"]["charged_pico"] / 6
    (tmp_path / "limited").mkdir()
    with emulator(limits__spend_per_day=5.5 * row_pico / 1e12, script="*=say:yes") as server:
        limited = workload.Service(server.client())
        with job_of(limited, tmp_path / "limited", 8, SIX_FIRST) as job:
            world = World(server)
            with pytest.raises(Refused, match="You have reached your specified workspace API usage limits") as caught:
                world.run(job, limited, SIX_FIRST)
            assert caught.value.code == 4
            assert [part.state for part in job.parts()] == [PartState.DONE, PartState.READY]
            world.wait(24 * 3600)
            assert world.run(job, limited, SIX_FIRST)["succeeded"] == 8
        assert len(creates(server)) == 2


def test_the_services_spend_limit_is_reached(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """429 without a time to come back is no full queue: waiting would help nobody, and the command says so."""
    with Proxy(standby_emulator.url, lambda request: "spent" if request.operation == "create" else NO_TROUBLE) as proxy:
        there = workload.Service(standby_emulator.client(base_url=proxy.url))
        with job_of(there, tmp_path, 3) as job, pytest.raises(Refused, match="spend limit is reached"):
            World().run(job, there)
    assert creates(standby_emulator) == []
    del service


def test_a_key_is_revoked_in_the_middle(tmp_path: Path) -> None:
    """Nothing is lost: with another key of the workspace the same command collects what was paid."""
    data = tmp_path / "data"
    with emulator(data=data, script="*=slow:2h") as server:
        old, key_id = asyncio.run(new_key(data, "old"))
        service = workload.Service(server.client(api_key=old))
        with job_of(service, tmp_path, 3) as job:
            workload.submit_job(job, service)
            asyncio.run(revoke(data, key_id))
            with pytest.raises(NoAccess, match="does not take the credentials") as caught:
                World(server).run(job, service)
            assert caught.value.code == 3
            server.api_key = asyncio.run(new_key(data, "new"))[0]
            mended = workload.Service(server.client())
            assert World(server).run(job, mended)["succeeded"] == 3
            assert len(job.parts()) == 1


async def new_key(data: Path, name: str) -> tuple[str, KeyId]:
    """Make a key beside the running server, as the command does; return it and its id."""
    secret = new_secret()
    store = await open_store(load_settings(environ={}, flags={"store.data": str(data)}))
    try:
        owner = (await store.list_workspaces())[0].id
        key = await store.create_key(owner, name, digest=digest(secret), hint="", now_us=time.time_ns() // 1000)
    finally:
        await store.close()
    return secret, key.id


async def revoke(data: Path, key_id: KeyId) -> None:
    """Revoke a key beside the running server."""
    store = await open_store(load_settings(environ={}, flags={"store.data": str(data)}))
    try:
        await store.revoke_key(key_id, now_us=time.time_ns() // 1000)
    finally:
        await store.close()


def test_a_wrong_key_at_the_create_sends_nothing_again_later(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """401 surely made no batch: the next command sends at once, without looking for one."""
    standby_emulator.fault("create=401+times:1")
    with job_of(service, tmp_path, 3) as job:
        with pytest.raises(NoAccess):
            World(standby_emulator).run(job, service)
        assert [part.state for part in job.parts()] == [PartState.READY]
        assert World(standby_emulator).run(job, service)["succeeded"] == 3


def test_a_batch_is_deleted_by_somebody(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """Its rows are named as missing and not sent behind anybody's back; `retry` sends them."""
    with job_of(service, tmp_path, 8, PARTS_OF_FOUR) as job:
        workload.submit_job(job, service, pace=PARTS_OF_FOUR)
        standby_emulator.settle()
        service._client.messages.batches.delete(str(job.parts()[0].batch_id))
        report = World(standby_emulator).run(job, service, PARTS_OF_FOUR)
        assert (report["succeeded"], report["failed"]) == (4, {"missing": 4})
        assert len(creates(standby_emulator)) == 2
        job.ask_again(1)
        report = World(standby_emulator).run(job, service, PARTS_OF_FOUR)
        assert (report["succeeded"], report["failed"]) == (8, {})
    assert len(creates(standby_emulator)) == 3


def test_a_batch_is_canceled_by_somebody(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """Its rows say so; only a person sends them again."""
    standby_emulator.script("*~/text [2-9]$/=slow:1h")
    with job_of(service, tmp_path, 4) as job:
        workload.submit_job(job, service)
        standby_emulator.settle()
        service.cancel(str(job.parts()[0].batch_id))
        report = World(standby_emulator).run(job, service)
        assert (report["succeeded"], report["failed"]) == (2, {"canceled": 2})
        job.ask_again(0)
        assert World(standby_emulator).run(job, service)["succeeded"] == 4
    assert len(creates(standby_emulator)) == 2


def test_a_batch_expires_in_the_middle(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """What the service did not come to in its 24 hours is sent again by itself, and alone."""
    standby_emulator.script("*~/text 1$/=never")
    seen: list[View] = []

    def say(view: View) -> None:
        seen.append(view)
        if view.round:
            standby_emulator._call("PUT", "simulator/script", {"script": []})

    with job_of(service, tmp_path, 3) as job:
        report = World(standby_emulator, step_s=3600).run(job, service, HOURLY, say=say)
    assert report["succeeded"] == 3
    assert [part["items"] for part in report["parts"]][:2] == [3, 1]
    assert creates(standby_emulator)
    assert [row["status"] for row in read(tmp_path / "out.parquet")] == ["succeeded"] * 3


def test_a_row_that_always_expires_ends(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """After its tries it is named; the job is over after so many days."""
    standby_emulator.script("*~/text 1$/=never")
    began = standby_emulator.now
    with job_of(service, tmp_path, 3) as job:
        report = World(standby_emulator, step_s=3600).run(job, service, HOURLY)
    assert (report["failed"], [part["items"] for part in report["parts"]]) == ({"expired": 1}, [3, 1])
    assert 48 <= (standby_emulator.now - began).total_seconds() / 3600 < 51


def test_an_account_that_was_filled_again(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """An empty account stops everything; once a person says that it is mended, those rows run too."""
    standby_emulator.script('*=errored:invalid_request_error:"Your credit balance is too low to access the API."')
    with job_of(service, tmp_path, 8, TWO_FIRST) as job:
        with pytest.raises(Refused, match="2 of 2 rows of part 1 failed with billing_error; the other parts"):
            World(standby_emulator).run(job, service, TWO_FIRST)
        standby_emulator._call("PUT", "simulator/script", {"script": []})
        report = World(standby_emulator).run(job, service, TWO_FIRST)
        assert report["failed"] == {"billing_error": 2}
        job.ask_again(0)
        assert World(standby_emulator).run(job, service, TWO_FIRST)["succeeded"] == 8


class Died(BaseException):
    """As if the power had gone."""


def test_the_line_stops_also_after_a_crash(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies right after it learned that a canary failed: the next one still says so and sends nothing."""
    standby_emulator.script("*=errored:invalid_request_error")

    def die(door: str) -> None:
        if door == "job.settle.after_commit":
            raise Died

    with job_of(service, tmp_path, 8, TWO_FIRST) as job:
        monkeypatch.setattr(doors, "listener", die)
        with pytest.raises(Died):
            World(standby_emulator).run(job, service, TWO_FIRST)
        monkeypatch.setattr(doors, "listener", None)
        with pytest.raises(Refused, match="failed with invalid_request_error"):
            World(standby_emulator).run(job, service, TWO_FIRST)
        assert len(creates(standby_emulator)) == 1
        standby_emulator._call("PUT", "simulator/script", {"script": []})
        assert World(standby_emulator).run(job, service, TWO_FIRST)["succeeded"] == 6


def test_something_else_answers_at_the_address(standby_emulator: Emulator, tmp_path: Path) -> None:
    """A 404 that is not the service's own, as of a proxy that lost its way, takes no row for lost."""
    is_lost: list[bool] = []

    def choose(request: Request) -> str:
        return "astray" if is_lost and request.operation == "retrieve" else NO_TROUBLE

    with Proxy(standby_emulator.url, choose) as proxy:
        there = workload.Service(standby_emulator.client(base_url=proxy.url))
        with job_of(there, tmp_path, 3) as job:
            workload.submit_job(job, there)
            is_lost.append(True)
            with pytest.raises(Unavailable, match="something else answers"):
                World().run(job, there)
            assert [part.state for part in job.parts()] == [PartState.SUBMITTED]
            is_lost.clear()
            assert World(standby_emulator).run(job, there)["succeeded"] == 3
