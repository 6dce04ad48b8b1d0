from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from standby.config import SimulatorSettings
from standby.emulation.cue import NEVER, PLAIN, Cue
from standby.engines.base import Context
from standby.engines.simulated import Simulated
from standby.engines.simulated.cues import STATUSES
from standby.errors import EngineError, Failure, InvalidParams
from standby.records import SECOND
from standby.wire.messages import TextBlock, ThinkingBlock, ToolUseBlock, accumulate
from tests.engines.simulating import Held, ask, finish, started
from tests.engines.suite import is_idle, text_of, until

WEATHER = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
CLOCK = {"name": "clock", "input_schema": {"type": "object", "properties": {"zone": {"enum": ["UTC"]}}}}


class Script:
    """Gives one cue to every request, and keeps what it was asked."""

    def __init__(self, cue: Cue = PLAIN) -> None:
        """Give this one."""
        self.cue_ = cue
        self.asked: list[tuple[str, str, str, str]] = []

    def cue(self, *, custom_id: str, model: str, text: Callable[[], str], header: str) -> Cue:
        """Give the cue."""
        self.asked.append((custom_id, model, text(), header))
        return self.cue_


async def scripted(clock: Held | None = None, **cue: Any) -> Simulated:
    """Start a simulator that does one thing to every request."""
    return await started(Simulated(SimulatorSettings(), clock=clock, script=Script(Cue(**cue))))


def item(custom_id: str = "one", attempt: int = 1) -> Context:
    """Be an item of a batch."""
    return Context(batch_id="msgbatch_1", custom_id=custom_id, attempt=attempt)


async def test_a_script_sees_who_asks_for_what() -> None:
    """The id of the item, the model by the name that was given, the last turn's text and the header."""
    script = Script()
    engine = await started(Simulated(SimulatorSettings(), script=script))
    turns = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    await engine.generate(ask(messages=turns, model="claude-haiku-4-5"), context=item("x"))
    await engine.generate(ask("Hello"), live=True, context=Context(simulate="slow"))
    assert script.asked == [("x", "claude-haiku-4-5", "a\nb", ""), ("", ask().model, "Hello", "slow")]


@pytest.mark.parametrize("kind", STATUSES)
async def test_an_error_for_good_is_the_requests_own(kind: str) -> None:
    """Each type of error becomes the item's row, with its own status for a live request."""
    engine = await scripted(error=kind, message="because")
    for context in (item(), Context()):
        with pytest.raises(InvalidParams) as caught:
            await engine.generate(ask(), context=context, live=not context.batch_id)
        assert (caught.value.status, caught.value.type, caught.value.message) == (STATUSES[kind], kind, "because")
    assert is_idle(engine)


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("overloaded_error", Failure.OVERLOADED),
        ("rate_limit_error", Failure.OVERLOADED),
        ("timeout_error", Failure.TIMEOUT),
        ("api_error", Failure.BROKEN),
    ],
)
async def test_an_error_of_some_tries_is_followed_by_the_answer(kind: str, failure: Failure) -> None:
    """An item's first tries fail as an engine's do, and the next one is answered."""
    engine = await scripted(error=kind, times=2)
    for attempt in (1, 2):
        with pytest.raises(EngineError) as caught:
            await engine.generate(ask(), context=item(attempt=attempt))
        assert caught.value.failure is failure
    assert text_of(await engine.generate(ask(), context=item(attempt=3)))


async def test_a_live_client_sees_the_error_and_tries_again_itself() -> None:
    """Tries of a live request are counted by its prompt, and fail with the status of their type."""
    engine = await scripted(error="rate_limit_error", times=1)
    with pytest.raises(InvalidParams) as caught:
        await anext(engine.stream(ask()))
    assert caught.value.status == 429
    assert [event async for event in engine.stream(ask())]
    with pytest.raises(InvalidParams):
        await engine.generate(ask("another"), live=True)


async def test_a_slow_answer_waits_on_the_clock_and_takes_no_slot() -> None:
    """What a cue holds back leaves its slot to others, and is answered once the clock has come so far."""
    clock = Held()
    engine = await scripted(clock, after_s=3600)
    task = asyncio.create_task(engine.generate(ask(), context=item()))
    await until(lambda: engine.load().slots == 65)
    assert is_idle(engine)
    clock.advance(3599 * SECOND)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(SECOND)
    assert text_of(await task)
    assert engine.load().slots == 64


async def test_never_ends_with_the_deadline() -> None:
    """A request that is never answered fails when its time is over, or when its client leaves."""
    clock = Held()
    engine = await scripted(clock, after_s=NEVER)
    task = asyncio.create_task(engine.generate(ask(), deadline_us=clock() + 24 * 3600 * SECOND, context=item()))
    left = asyncio.create_task(engine.generate(ask(), live=True))
    await until(lambda: engine.load().slots == 66)
    left.cancel()
    clock.advance(24 * 3600 * SECOND)
    with pytest.raises(EngineError) as caught:
        await task
    assert caught.value.failure is Failure.TIMEOUT
    await asyncio.gather(left, return_exceptions=True)
    assert engine.load().slots == 64


async def test_it_says_what_the_script_says() -> None:
    """A scripted text is said word by word, and keeps `max_tokens` and stop sequences."""
    engine = await scripted(text="Grüße aus der 南京 city,\n  goodbye ")
    whole = await engine.generate(ask())
    assert (text_of(whole), whole.stop_reason) == ("Grüße aus der 南京 city,\n  goodbye ", "end_turn")
    assert text_of(await engine.generate(ask(stop_sequences=["京"]))) == "Grüße aus der 南"
    assert (await engine.generate(ask(max_tokens=2))).stop_reason == "max_tokens"


@pytest.mark.parametrize("reason", ["end_turn", "pause_turn", "refusal", "model_context_window_exceeded", "max_tokens"])
async def test_an_answer_ends_as_the_script_says(reason: str) -> None:
    """Every reason that an answer can end with can be had, and a refusal says why."""
    engine = await scripted(stop=reason)
    message = await engine.generate(ask(max_tokens=300))
    assert message.stop_reason == reason
    assert (message.stop_details or {}).get("type") == ("refusal" if reason == "refusal" else None)
    assert (message.usage.output_tokens == 300) == (reason == "max_tokens")
    streamed = accumulate([event async for event in engine.stream(ask(max_tokens=300))])
    assert (streamed.stop_reason, streamed.stop_details) == (reason, message.stop_details)


async def test_a_scripted_stop_sequence_is_one_of_the_requests() -> None:
    """The script cannot end with a sequence that the request does not have."""
    engine = await scripted(stop="stop_sequence")
    assert (await engine.generate(ask(stop_sequences=["§"]))).stop_sequence == "§"
    with pytest.raises(InvalidParams, match="stop_sequences: "):
        await engine.generate(ask())


async def test_a_script_calls_tools() -> None:
    """One call with the script's input, or several at once, after the text that the script says."""
    engine = await scripted(tool="weather", input={"place": "Nice"}, text="Let me look.")
    said, call = (await engine.generate(ask(tools=[WEATHER, CLOCK]))).content
    assert isinstance(said, TextBlock)
    assert isinstance(call, ToolUseBlock)
    assert (said.text, call.name, call.input) == ("Let me look.", "weather", {"place": "Nice"})

    engine = await scripted(tool="clock,weather,weather")
    message = await engine.generate(ask(tools=[WEATHER, CLOCK]))
    calls = [block for block in message.content if isinstance(block, ToolUseBlock)]
    assert [call.name for call in calls] == ["clock", "weather", "weather"]
    assert len({call.id for call in calls}) == 3
    assert message.stop_reason == "tool_use"
    only = await engine.generate(
        ask(tools=[WEATHER, CLOCK], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    )
    assert len(only.content) == 1


@pytest.mark.parametrize(
    "more", [{}, {"tools": [CLOCK]}, {"tools": [WEATHER], "tool_choice": {"type": "none"}}], ids=str
)
async def test_a_script_cannot_call_what_the_request_has_not(more: dict[str, Any]) -> None:
    """The item says what does not fit, instead of an answer that no real model could give."""
    with pytest.raises(InvalidParams, match=r"tools: |tool_choice: "):
        await (await scripted(tool="weather")).generate(ask(**more))


async def test_time_passes_before_a_scripted_error_too() -> None:
    """Slow and then broken."""
    clock = Held()
    engine = await scripted(clock, after_s=10, error="api_error")
    task = asyncio.create_task(engine.generate(ask(), context=item()))
    await finish(clock, task, step_s=1)
    assert clock.passed_s == 10
    assert isinstance(task.exception(), InvalidParams)


async def test_scripted_text_does_not_stop_thinking() -> None:
    """The script says the text; whether it is thought about is the request's matter."""
    engine = await scripted(text="Done.")
    thought, said = (await engine.generate(ask(thinking={"type": "adaptive"}))).content
    assert isinstance(thought, ThinkingBlock)
    assert isinstance(said, TextBlock)
