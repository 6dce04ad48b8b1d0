"""What goes wrong between a client and a service, over a real socket: nothing is lost, nothing is paid twice."""

from __future__ import annotations

import json
from pathlib import Path

import anthropic
import pytest

from standby import workload
from standby.testing import Emulator
from standby.workload import collect
from standby.workload.faults import QueueFull, Refused, Unavailable, Uncertain, WaitOver
from standby.workload.parts import Limits
from standby.workload.service import Seen
from standby.workload.states import PartState
from tests.workload.conftest import MODEL, Answer, creates, quick, small, write_rows


def spec_of(tmp_path: Path, rows: int = 3) -> workload.Spec:
    """Say text."""
    source = workload.Source(kind="file", where=str(write_rows(tmp_path / "in.jsonl", rows)))
    return workload.Spec(source=source, output=str(tmp_path / "out.parquet"), model=MODEL, prompt="Say {{ text }}")


@pytest.mark.parametrize("fault", ["lost", "reset", "500", "503", "529", "429+retry_after:0", "wait:1s"])
def test_a_create_that_fails_makes_one_batch(answer: Answer, standby_emulator: Emulator, fault: str) -> None:
    """Whether the service made it or not: each part exists once."""
    standby_emulator.fault(f"create={fault}+times:1+skip:1")
    report, rows = answer(9, pace=small(3))
    assert report["succeeded"] == 9
    assert {row["status"] for row in rows} == {"succeeded"}
    assert len(creates(standby_emulator)) == 3


def test_a_lost_create_is_never_sent_again(answer: Answer, standby_emulator: Emulator) -> None:
    """It is found in the list: not even an idempotency key is needed."""
    standby_emulator.fault("create=lost+times:1")
    answer(3)
    assert len([one for one in standby_emulator.requests if one.operation == "create"]) == 1


def test_the_sdks_own_retries_are_off_for_create(answer: Answer, standby_emulator: Emulator) -> None:
    """The SDK would send again what was accepted."""
    standby_emulator.fault("create=500+times:1")
    answer(3)
    assert {one.retry for one in standby_emulator.requests if one.operation == "create"} == {0}


def test_another_programs_batch_of_the_same_size_is_not_taken(
    answer: Answer, standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """A batch that is only found by its size has to prove itself by the names in its results."""
    spec = spec_of(tmp_path)
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        job.move(job.parts()[0], PartState.SENDING, anchor=None)  # as if the process had died in the create
    params = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    requests = [{"custom_id": f"theirs-{n}", "params": params} for n in range(3)]
    foreign = service._client.messages.batches.create(requests=requests)  # type: ignore[arg-type]
    report, rows = answer(tmp_path / "in.jsonl")
    assert report["succeeded"] == 3
    assert all(row["answer"] for row in rows)
    assert report["parts"][0]["batch_id"] != foreign.id
    assert len(creates(standby_emulator)) == 2


def test_a_full_queue_is_waited_for(answer: Answer, standby_emulator: Emulator) -> None:
    """However often it is full: that is no failed try."""
    standby_emulator.fault("create=429+retry_after:0+times:20")
    report, _ = answer(3)
    assert report["succeeded"] == 3
    assert len(creates(standby_emulator)) == 1


@pytest.mark.parametrize("cut", ["cut:2", "cut_inside:2", "cut:0", "cut_inside:0"])
def test_results_that_break_off_are_read_to_the_end(answer: Answer, standby_emulator: Emulator, cut: str) -> None:
    """Also at the end of a line, where nothing looks broken."""
    standby_emulator.fault(f"results={cut}+times:1")
    report, rows = answer(6)
    assert report["succeeded"] == 6
    assert all(row["answer"] for row in rows)


def test_results_that_always_break_off_leave_the_job_as_it_is(answer: Answer, standby_emulator: Emulator) -> None:
    """The command gives up, and the next one collects."""
    standby_emulator.fault("results=reset")
    with pytest.raises(Unavailable):
        answer(3, pace=quick(patience_s=0.1, download_tries=1))
    standby_emulator._call("PUT", "simulator/faults", {"faults": []})
    report, _ = answer(3)
    assert report["succeeded"] == 3
    assert len(creates(standby_emulator)) == 1


def test_expired_and_overloaded_rows_are_tried_again(answer: Answer, standby_emulator: Emulator) -> None:
    """What passes by itself is sent again, alone; the rest is not."""
    standby_emulator.script(
        "*~/text 1$/=errored:overloaded_error",
        "*~/text 3$/=errored:api_error",
        "*~/text 5$/=errored:invalid_request_error",
    )
    report, rows = answer(9, pace=quick(retries=2))
    assert [part["items"] for part in report["parts"]] == [9, 2, 2]
    assert report["failed"] == {"api_error": 1, "overloaded_error": 1, "invalid_request_error": 1}
    assert [row["status"] for row in rows].count("succeeded") == 6
    assert "api_error" in rows[3]["error"]


def test_a_row_that_was_tried_again_is_good_in_the_end(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """`standby retry` sends it once more, and its answer is the later one."""
    standby_emulator.script("*~/text 1$/=errored:api_error")
    with workload.opened_job(spec_of(tmp_path), endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        report = workload.run_job(job, service, pace=quick(retries=0))
        assert report["failed"] == {"api_error": 1}
        standby_emulator._call("PUT", "simulator/script", {"script": []})
        job.note(more_tries="1", written="")
        report = workload.run_job(job, service, pace=quick(retries=0))
    assert (report["succeeded"], report["failed"]) == (3, {})


def test_an_expired_row_is_no_empty_answer(answer: Answer, standby_emulator: Emulator) -> None:
    """What never ran has no answer, and says so."""
    standby_emulator.script("*~/text 1$/=errored:overloaded_error:busy")
    _, rows = answer(3, pace=quick(retries=0))
    assert (rows[1]["answer"], rows[1]["status"], rows[1]["error"]) == (None, "errored", "overloaded_error: busy")


def test_an_empty_account_stops_the_line(answer: Answer, standby_emulator: Emulator) -> None:
    """It arrives as an invalid request; only its words tell, and nothing is tried again."""
    text = "Your credit balance is too low to access the Anthropic API."
    standby_emulator.script(f'*~/text 1$/=errored:invalid_request_error:"{text}"', "*~/text 2$/=errored:api_error")
    report, _ = answer(4)
    assert report["failed"] == {"billing_error": 1, "api_error": 1}
    assert len(report["parts"]) == 1


def test_a_cut_answer_gets_more_room_if_asked(answer: Answer, standby_emulator: Emulator, tmp_path: Path) -> None:
    """Twice the tokens, and both answers are paid."""
    standby_emulator.script("*~/text 1$/=stop:max_tokens")
    report, _ = answer(3, pace=quick(is_more_room=True, retries=1), max_tokens=50)
    assert [part["items"] for part in report["parts"]] == [3, 1]
    body = (tmp_path / "out.parquet.standby" / "part-0002.json").read_text()
    assert '"max_tokens":100' in body


def test_waiting_may_end_before_the_batch(
    answer: Answer, standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """A local timeout never cancels; the same command goes on."""
    standby_emulator.script("*~/text 1$/=slow:1h")
    spec = spec_of(tmp_path)
    with workload.opened_job(spec, endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        with pytest.raises(WaitOver):
            workload.run_job(job, service, pace=quick(), wait_s=0.2)
    assert not [one for one in standby_emulator.requests if one.operation == "cancel"]
    standby_emulator.advance(hours=2)
    report, _ = answer(tmp_path / "in.jsonl")
    assert report["succeeded"] == 3
    assert len(creates(standby_emulator)) == 1


def test_a_canceled_job_keeps_what_is_finished(
    standby_emulator: Emulator, service: workload.Service, tmp_path: Path
) -> None:
    """Canceled rows are named and not sent again."""
    standby_emulator.script("*~/text 1$/=slow:1h")
    with workload.opened_job(spec_of(tmp_path), endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        workload.submit_job(job, service, pace=quick())
        standby_emulator.settle()
        assert workload.cancel_job(job, service) == 1
        standby_emulator.advance(hours=1)
        report = workload.run_job(job, service, pace=quick())
    assert report["succeeded"] + report["failed"].get("canceled", 0) == 3
    assert len(report["parts"]) == 1


def test_results_that_are_gone_are_named(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """After 29 days every row says that it is missing; none is paid again behind the user's back."""
    with workload.opened_job(spec_of(tmp_path), endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        workload.submit_job(job, service, pace=quick())
        standby_emulator.advance(days=30)
        report = workload.run_job(job, service, pace=quick())
    assert report["failed"] == {"missing": 3}


def result_line(name: str) -> bytes:
    """Write a row of results."""
    usage = b'{"input_tokens":1,"output_tokens":1}'
    message = b'{"model":"m","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":%b}' % usage
    return b'{"custom_id":"%b","result":{"type":"succeeded","message":%b}}' % (name.encode(), message)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_every_id_is_accounted_for(service: workload.Service, tmp_path: Path, end: bytes) -> None:
    """Missing, duplicate and foreign rows are counted and named; line ends of a proxy do no harm."""
    with workload.opened_job(spec_of(tmp_path, 3), endpoint=service.endpoint) as job:
        workload.prepare_job(job)
        names = [f"{job.tag}-{item.hash.hex()}" for item in job.items()]
        part = job.move(job.parts()[0], PartState.SENDING, anchor=None)
        part = job.move(part, PartState.SUBMITTED, batch_id="msgbatch_x", is_ours=1)
        part = job.move(part, PartState.ENDED)
        lines = [
            result_line(names[0]),
            result_line("stranger"),
            result_line(names[0]),
            b"{broken",
            result_line(names[2]),
        ]
        job.results(1).write_bytes(end.join(lines) + end)
        part = job.move(part, PartState.COLLECTED)
        account = collect.Account()
        job.settle(part, collect.settled(job, part, account, None))
        outcomes = [item.outcome for item in job.items()]
    assert outcomes == ["succeeded", "missing", "succeeded"]
    assert (account.foreign, account.duplicates, account.unreadable) == (1, 1, 1)
    assert account.named == ["stranger", names[0]]


def test_a_results_url_of_another_origin_is_refused(service: workload.Service) -> None:
    """The key would go there."""
    counts = {"succeeded": 1}
    batch = Seen(
        id="msgbatch_x",
        status="ended",
        counts=counts,
        created_at="",
        expires_at="",
        ended_at="",
        archived_at=None,
        results_url="https://elsewhere.example/results",
    )
    with pytest.raises(Refused, match="lie on another server"), service.results(batch):
        pass


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("lost", Uncertain),
        ("reset", Uncertain),
        ("500", Uncertain),
        ("504", Uncertain),
        ("429", QueueFull),
        ("529", QueueFull),
        ("413", Refused),
    ],
)
def test_what_a_failed_create_means(
    service: workload.Service, standby_emulator: Emulator, tmp_path: Path, fault: str, kind: type[Exception]
) -> None:
    """Only what surely made no batch may be sent again."""
    params = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"requests": [{"custom_id": "a", "params": params}]}))
    standby_emulator.fault(f"create={fault}+times:1")
    with pytest.raises(kind) as caught:
        service.create(body, key="k")
    assert type(caught.value) is kind


def test_nothing_listens(tmp_path: Path) -> None:
    """A connection that was never made sent nothing."""
    body = tmp_path / "body.json"
    body.write_text("{}")
    service = workload.Service(anthropic.Anthropic(base_url="http://127.0.0.1:1", api_key="x", max_retries=0))
    with pytest.raises(Unavailable, match="cannot be reached"):
        service.create(body, key="k")
    service._client.close()


def test_a_body_is_streamed_whole(standby_emulator: Emulator, service: workload.Service, tmp_path: Path) -> None:
    """Parts are cut by bytes too, and the service counts what was sent."""
    limits = Limits(bytes=2_000)
    with workload.opened_job(spec_of(tmp_path, 40), endpoint=service.endpoint) as job:
        workload.prepare_job(job, pace=quick(limits=limits))
        sizes = [(part.bytes, job.body(part.number).stat().st_size, part.items) for part in job.parts()]
        workload.run_job(job, service, pace=quick(limits=limits))
    assert all(told == on_disk <= 2_000 for told, on_disk, _ in sizes)
    assert len(sizes) > 2
    made = [one.items for one in standby_emulator.requests if one.operation == "create"]
    assert made == [items for _, _, items in sizes]
