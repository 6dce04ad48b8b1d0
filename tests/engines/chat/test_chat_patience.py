"""How long an engine may take is derived from the request; which limit struck is said."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from contextlib import ExitStack

import pytest

from standby.config import EngineSettings
from standby.engines.chat import Chat
from standby.engines.patience import Limits, Pace, Patience, limits_for
from standby.errors import EngineError, Failure
from standby.wire.chat.dialect import GENERIC, VLLM
from tests.engines.chat.scripted import Answer, Connect, Script, ask, chunk, forever, stream, usage
from tests.engines.suite import is_idle

SETTINGS = EngineSettings(first_token_timeout_s=10.0, stall_timeout_s=5.0)


def limits(*, prompt: int = 0, answer: int = 100, pace: Pace | None = None) -> Limits:
    """Derive the limits of a request with so many bytes and tokens."""
    return limits_for(SETTINGS, pace or Pace(), body_bytes=prompt, max_tokens=answer)


def test_a_longer_prompt_may_take_longer_to_begin() -> None:
    """In proportion, but not without end."""
    short, long, endless = limits(prompt=300).first_s, limits(prompt=3000).first_s, limits(prompt=10**9).first_s
    assert 10.0 < short < long < endless < 2000.0
    assert long - 10.0 == pytest.approx(10 * (short - 10.0))


def test_a_longer_answer_may_take_longer() -> None:
    """With a grace for short ones; silence between tokens is the setting, whatever the length."""
    assert limits(answer=10).total_s > 60.0
    assert limits(answer=1000).total_s == pytest.approx(limits(answer=0).total_s + 1000.0)
    assert limits(answer=1000).stall_s == limits(answer=1).stall_s == 5.0


def test_what_was_measured_takes_the_place_of_what_was_assumed() -> None:
    """A fast engine is waited for less long, a slow one longer."""
    fast, slow = Pace(), Pace()
    fast.learn(prompt=10_000, cached=0, first_s=1.0, output=101, rest_s=1.0)
    slow.learn(prompt=1000, cached=900, first_s=10.0, output=101, rest_s=200.0)
    kinds = [limits(prompt=6000, answer=1000, pace=pace) for pace in (fast, Pace(), slow)]
    assert [kind.first_s for kind in kinds] == sorted(kind.first_s for kind in kinds)
    assert [kind.total_s for kind in kinds] == sorted(kind.total_s for kind in kinds)
    assert len({kind.first_s for kind in kinds}) == len({kind.total_s for kind in kinds}) == 3


def test_tiny_answers_teach_nothing() -> None:
    """Their times are those of the network."""
    pace = Pace()
    pace.learn(prompt=20, cached=0, first_s=1.0, output=2, rest_s=1.0)
    pace.learn(prompt=1000, cached=1000, first_s=1.0, output=0, rest_s=0.0)
    assert (pace.prefill_tokens_s, pace.token_s) == (None, None)


async def test_an_engine_is_measured_by_its_answers(script: Script, connect: Connect) -> None:
    """Prefill by the first token, decode by the others."""
    engine = await connect(GENERIC)
    script.answer = stream(*[chunk("Hi")] * 10, chunk("", finish="stop"), usage(1000, 10), every_s=0.002)
    await engine.generate(ask())
    assert engine.pace.prefill_tokens_s is not None
    assert engine.pace.token_s is not None


SHORT = Limits(first_s=0.05, stall_s=0.05, alive_s=0.05, total_s=0.05)
LONG = Limits(first_s=60.0, stall_s=60.0, alive_s=60.0, total_s=60.0)


def only(name: str) -> Limits:
    """Make limits of which only one is short."""
    values = {field: getattr(LONG, field) for field in ("first_s", "stall_s", "alive_s", "total_s")}
    return Limits(**{**values, name: 0.05})


TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
PROGRESS = b'data: {"choices":[{"delta":{"role":"assistant"}}],"prompt_progress":{"processed":1}}\n\n'
COMMENT = b": still here\n\n"
STRIKES: list[tuple[str, Answer, str]] = [
    ("first_s", stream(hang=True), "the engine did not begin to answer in 0.05 s"),
    ("stall_s", stream(chunk("Hi"), hang=True), "the engine stalled between tokens for 0.05 s"),
    ("alive_s", forever(COMMENT), "the engine was alive but gave no token for 0.05 s"),
    ("alive_s", forever(PROGRESS), "the engine was alive but gave no token for 0.05 s"),
    ("total_s", forever(TOKEN), "the engine was not done after 0.05 s of answering"),
]


@pytest.mark.parametrize(("name", "answer", "words"), STRIKES)
async def test_each_limit_says_that_it_struck(
    script: Script, connect: Connect, monkeypatch: pytest.MonkeyPatch, name: str, answer: Answer, words: str
) -> None:
    """And the engine sees its client go."""
    monkeypatch.setattr(Chat, "_limits", lambda *_: only(name))
    script.answer = answer
    engine = await connect(GENERIC)
    with pytest.raises(EngineError) as caught:
        await engine.generate(ask())
    assert (caught.value.failure, caught.value.message) == (Failure.TIMEOUT, words)
    assert is_idle(engine)
    await asyncio.wait_for(script.left.wait(), 10)


@pytest.mark.parametrize("answer", [forever(COMMENT), forever(TOKEN), stream(hang=True), stream(chunk("a"), hang=True)])
async def test_nothing_outlives_the_deadline(script: Script, connect: Connect, answer: Answer) -> None:
    """Whatever the engine does to keep its client."""
    script.answer = answer
    engine = await connect(GENERIC)
    with pytest.raises(EngineError) as caught:
        await engine.generate(ask(), deadline_us=time.time_ns() // 1000 + 100_000)
    assert (caught.value.failure, caught.value.message) == (
        Failure.TIMEOUT,
        "the deadline passed before the engine was done",
    )


async def test_signs_of_life_are_waited_for(script: Script, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that reads a long prompt and says so may take longer than one that is silent."""
    monkeypatch.setattr(Chat, "_limits", lambda *_: Limits(first_s=1.5, stall_s=1.5, alive_s=60.0, total_s=60.0))
    signs = [COMMENT, PROGRESS] * 10
    script.answer = stream(*signs, chunk("Hi"), *signs, chunk("", finish="stop"), usage(3, 2), every_s=0.1)
    assert (await (await connect(GENERIC)).generate(ask())).usage.output_tokens == 2


async def test_a_slow_reader_is_not_held_against_the_engine() -> None:
    """Only time spent waiting for the engine counts."""
    patience = Patience(SHORT, None)
    patience.token()
    for _ in range(3):
        await patience.wait_for(_nothing())
        time.sleep(0.06)  # noqa: ASYNC251 - the reader's time
        patience.token()
    assert patience.rest_s < 0.05


async def test_a_limit_is_that_of_one_wait_however_many_there_were() -> None:
    """What passes between two waits strikes neither of them, and a wait that is long enough is still noticed."""
    with Patience(Limits(first_s=60.0, stall_s=0.5, alive_s=60.0, total_s=60.0), None) as patience:
        await patience.wait_for(_nothing())
        patience.token()
        await patience.wait_for(_nothing())  # sets the timer
        await asyncio.sleep(0.6)  # the reader's time
        await patience.wait_for(_nothing())
        with pytest.raises(EngineError, match="stalled between tokens"):
            await patience.wait_for(asyncio.sleep(60))


async def test_a_shorter_limit_takes_over_with_the_first_token() -> None:
    """An engine that may think for an hour may not stop for one in the middle of its answer."""
    with Patience(only("stall_s"), None) as patience:
        await patience.wait_for(_nothing())
        patience.token()
        with pytest.raises(EngineError, match="stalled between tokens"):
            await asyncio.wait_for(patience.wait_for(asyncio.sleep(60)), 10)


async def test_a_limit_leaves_the_task_as_it_was() -> None:
    """Whoever catches the failure is not cancelled; whoever is cancelled meanwhile still is."""
    with Patience(SHORT, None) as patience:
        with pytest.raises(EngineError):
            await patience.wait_for(asyncio.sleep(60))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await patience.wait_for(asyncio.sleep(60))
        task.uncancel()


async def test_nothing_looks_after_an_answer_that_is_over() -> None:
    """Answers by the thousand a minute must not leave their timers behind for as long as each might have taken."""
    with Patience(LONG, None) as patience:
        await patience.wait_for(_nothing())
    kept = weakref.ref(patience)
    del patience
    gc.collect()
    assert kept() is None


async def _nothing() -> None:
    return


async def test_a_cancelled_request_leaves_the_engine(script: Script, connect: Connect) -> None:
    """Before its first token as well as after: the engine sees the connection close and can stop."""
    engine = await connect(VLLM)
    for answer in (stream(hang=True), stream(chunk("Hi"), usage(3, 1), hang=True)):
        script.answer, script.left = answer, asyncio.Event()
        sent = len(script.sent)
        task = asyncio.create_task(engine.generate(ask()))
        async with asyncio.timeout(10):
            while len(script.sent) == sent:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(script.left.wait(), 10)
        assert is_idle(engine)


async def test_a_connection_that_is_not_taken_is_given_up() -> None:
    """Within the setting, as an endpoint that is away."""
    with socket.socket() as deaf, ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(8):  # more than its queue holds
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        engine = Chat(EngineSettings(connect_timeout_s=0.2), base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        await asyncio.wait_for(engine.start(), 10)
        assert not engine.ready()
        with pytest.raises(EngineError) as caught:
            await engine.generate(ask())
        assert caught.value.failure is Failure.UNREACHABLE
        await engine.close()
