"""How an engine lives: models, load, cancel, priority, deadlines, its end."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from standby.engines.base import Engine
from standby.errors import EngineError, Failure, InvalidParams
from tests.engines.asking import (
    PROMPT,
    Asking,
    close,
    collect,
    freed,
    is_idle,
    lines,
    running,
    text_of,
    until,
    written,
)
from tests.engines.features import Feature, shows


class Life(Asking):
    """Requests among others."""

    @shows(Feature.MODELS)
    async def test_it_is_ready_once_started(self, engine: Engine) -> None:
        """A started engine says that it is ready, within a bound."""
        await until(engine.ready)

    @shows(Feature.MODELS)
    async def test_an_unknown_model_is_refused(self, engine: Engine) -> None:
        """A name that nobody serves is the request's own fault, 404."""
        with pytest.raises(InvalidParams) as caught:
            await engine.resolve("nobody-serves-this")
        assert (caught.value.status, caught.value.message) == (404, "model: nobody-serves-this")

    @shows(Feature.MODELS)
    async def test_its_models_are_listed_newest_first(self, engine: Engine) -> None:
        """What a name resolves to is in the list."""
        models = await engine.models()
        assert await engine.resolve(self.model) in {model.id for model in models}
        assert all(before.created_us >= after.created_us for before, after in pairwise(models))
        assert all(model.max_output_tokens > 0 and model.max_input_tokens > 0 for model in models)

    @shows(Feature.LOAD)
    async def test_more_requests_than_slots_are_all_answered(self, engine: Engine) -> None:
        """Whoever finds no slot waits and is answered in the end."""
        size = min(engine.profile.slots * 2 + 1, 40)
        answers = await asyncio.gather(*(engine.generate(self.ask(f"{n} {PROMPT}", max_tokens=2)) for n in range(size)))
        assert all(answer.usage.output_tokens <= 2 for answer in answers)
        assert is_idle(engine)

    @shows(Feature.LOAD)
    @pytest.mark.parametrize("live", [True, False])
    async def test_work_shows_in_the_load(self, engine: Engine, *, live: bool) -> None:
        """A request counts as live or batch from its first event until it ends or its stream is closed."""
        events = engine.stream(self.ask(), live=live)
        await anext(events)
        load = engine.load()
        assert (load.live, load.batch) == ((1, 0) if live else (0, 1))
        await close(events)
        await until(lambda: is_idle(engine))

    @shows(Feature.LOAD)
    async def test_a_deadline_that_is_over_fails_the_attempt(self, engine: Engine) -> None:
        """A request whose time is over is not answered late."""
        with pytest.raises(EngineError) as caught:
            await engine.generate(self.ask(), deadline_us=1)
        assert caught.value.failure is Failure.TIMEOUT
        assert is_idle(engine)

    @shows(Feature.CANCEL)
    async def test_a_request_that_is_cancelled_at_once_leaves_nothing_behind(self, engine: Engine) -> None:
        """Cancelling a generate frees its slot and the engine answers the next one."""
        task = asyncio.create_task(engine.generate(self.ask(max_tokens=64)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await freed(engine)
        assert text_of(await engine.generate(self.ask()))

    @shows(Feature.CANCEL)
    @pytest.mark.parametrize("live", [True, False])
    async def test_a_stream_that_is_closed_stops_the_writing(self, engine: Engine, *, live: bool) -> None:
        """A client that hangs up in the middle frees its place long before its tokens are used up."""
        events = engine.stream(self.ask(f"Tell a long story. {lines(3)}", max_tokens=1500), live=live)
        before = await written(engine)
        for _ in range(3):
            await anext(events)
        await close(events)
        await freed(engine)
        assert await written(engine) - before < 700
        assert text_of(await engine.generate(self.ask()))

    @shows(Feature.CANCEL)
    async def test_a_request_that_is_cancelled_while_its_prompt_is_read_frees_its_place(self, engine: Engine) -> None:
        """Prompts of an engine that is busy reading are given up as well."""
        text = lines(self.cacheable * 3)
        tasks = [asyncio.create_task(engine.generate(self.ask(f"{n} {text}", max_tokens=64))) for n in range(2)]
        await until(lambda: not is_idle(engine) or tasks[0].done())
        await running(engine)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await freed(engine)
        assert text_of(await engine.generate(self.ask()))

    @shows(Feature.PRIORITY)
    async def test_a_live_request_overtakes_waiting_batch_requests(self, engine: Engine) -> None:
        """With all places taken by batches and more of them waiting, a live request is answered before those."""
        slots = engine.profile.slots
        await engine.generate(self.ask())  # beside its first work an adapter may find out what the engine takes
        asked = [self.ask(f"{n} {PROMPT} {lines(2)}", max_tokens=24) for n in range(slots * 3)]
        batch = [asyncio.create_task(collect(engine.stream(params, live=False))) for params in asked]
        await until(lambda: in_hand(engine) == len(batch) or all(task.done() for task in batch))
        await engine.generate(self.ask("Hi.", max_tokens=2), live=True)
        done = sum(task.done() for task in batch)
        await asyncio.gather(*batch)
        assert done <= slots + 1

    async def test_after_its_close_it_answers_nothing(self, engine: Engine) -> None:
        """A closed engine is not ready and fails at once, retriably."""
        await engine.close()
        assert not engine.ready()
        with pytest.raises(EngineError) as caught:
            await engine.generate(self.ask())
        assert caught.value.failure.retriable


def in_hand(engine: Engine) -> int:
    """Count what runs or waits."""
    load = engine.load()
    return load.live + load.batch + load.waiting
