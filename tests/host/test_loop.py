"""The step loop over a tiny library whose next token depends on all tokens before it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.host.ask import Ask, Sampling, Turn
from standby.host.loop import StepLoop
from standby.host.metrics import Metrics
from standby.host.pipeline import Read
from standby.host.schedule import LATELY_S, QUICK_S
from standby.host.sequence import Piece, Sequence
from standby.wire.grammar.language import Language, Literal, chars, repeat, seq

BLOCK = 4
READ = 14
"""Prompt tokens that the library reads in a step."""
LETTER = chars((97, 122))
LETTERS = Language(repeat(LETTER, 0, None), {})


def next_token(tokens: list[int]) -> int:
    """Return the only token that can follow: resuming with anything lost or doubled would show."""
    return (sum(tokens) * 31 + len(tokens) * 7) % 26


@dataclass(eq=False)
class Running:
    """One sequence in the library."""

    tokens: list[int]
    left: int
    reading: int = 0
    unread: list[int] = field(default_factory=list)
    finish: str | None = None
    live: bool = True
    forced: int | None = None


class Letters:
    """A library that writes letters."""

    def __init__(self, blocks: int) -> None:
        """Begin empty."""
        self.blocks = blocks
        self.context = (blocks - 1) * BLOCK
        self.pieces = self
        self.running: list[Running] = []
        self.steps: list[list[Running]] = []
        self.broken = False
        self.added: list[int] = []

    def of(self, token: int) -> bytes:
        """Return a letter."""
        return bytes([97 + token])

    def add(self, tokens: list[int], *, limit: int, sampling: Sampling, grammar: str | None, kept: int) -> Running:
        """Take a sequence."""
        assert limit > 0
        handle = Running(tokens=list(tokens), left=limit, reading=len(tokens))
        handle.cancel = lambda: self._cancel(handle)  # type: ignore[attr-defined]
        self.added.append(len(tokens))
        self.running.append(handle)
        return handle

    def step(self) -> None:
        """Write one letter in each sequence."""
        if self.broken:
            raise RuntimeError("a grammar")
        for handle in [h for h in self.running if h.finish is None]:
            handle.reading -= READ
            if handle.reading > 0:
                continue
            token = next_token(handle.tokens) if handle.forced is None else handle.forced
            handle.forced = None
            handle.tokens.append(token)
            handle.unread.append(token)
            handle.left -= 1
            handle.finish = "length" if handle.left == 0 else None
        self.steps.append(list(self.running))

    def _cancel(self, handle: Running) -> None:
        """Forget it. The real library spoils its prefix cache if that happens before the first token."""
        assert handle.reading <= 0, "stopped while it read its prompt"
        self.running.remove(handle)

    def busy(self) -> bool:
        """Whether anything is unfinished."""
        return any(h.finish is None for h in self.running)

    def read(self, handle: Running) -> Read:
        """Take what is new."""
        tokens, handle.unread = handle.unread, []
        return Read(tokens=tokens, finish=handle.finish)

    def encode(self, text: str) -> list[int]:
        """Turn letters into tokens."""
        return [ord(letter) - 97 for letter in text]


def ask(*, live: bool, tokens: int, stop: tuple[str, ...] = (), language: Language | None = None) -> Ask:
    """Make a request."""
    return Ask(
        turns=(Turn(role="user", content="x"),),
        model="",
        max_tokens=tokens,
        sampling=Sampling(),
        stop=stop,
        language=language,
        live=live,
        stream=True,
        usage_at_end=False,
        usage_always=False,
    )


def pieces(sequence: Sequence) -> list[Piece]:
    """Take all that came out."""
    found = []
    while not sequence.pieces.empty():
        found.append(sequence.pieces.get_nowait())
    return found


def alone(prompt: list[int], tokens: int, stop: tuple[str, ...] = ()) -> tuple[str, int]:
    """Return what the library writes undisturbed: text and the number of tokens."""
    so_far, text = list(prompt), ""
    for count in range(1, tokens + 1):
        so_far.append(next_token(so_far))
        text += chr(97 + so_far[-1])
        for stop_string in stop:
            if stop_string in text:
                return text[: text.index(stop_string)], count
    return text, tokens


def make(blocks: int = 64, slots: int = 4, **more: Any) -> tuple[StepLoop, Letters, Metrics]:
    """Make a loop."""
    library, metrics = Letters(blocks), Metrics()
    return StepLoop(library, metrics, slots=slots, block=BLOCK, **more), library, metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Read a metric."""
    return metrics.registry.get_sample_value(f"standby_host_{name}", labels) or 0.0


async def test_a_live_request_is_alone_in_the_very_next_step() -> None:
    """Batch sequences make way before the step, and come back after it."""
    loop, library, metrics = make(reads_s=1e6)
    batch = [loop.submit(ask(live=False, tokens=9), [n, 1, 2]) for n in range(3)]
    loop.step_once()
    live = loop.submit(ask(live=True, tokens=2), [9, 9])
    loop.step_once()
    loop.step_once()
    assert [len(step) for step in library.steps] == [3, 1, 1]
    assert pieces(live)[-1].finish == "length"
    for _ in range(8):
        loop.step_once()
    for number, sequence in enumerate(batch):
        found = pieces(sequence)
        assert "".join(p.text for p in found) == alone([number, 1, 2], 9)[0]
        assert (found[-1].finish, found[-1].completion_tokens) == ("length", 9)
    assert value(metrics, "pauses_total") == 3
    assert library.running == []


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_interruption_changes_an_answer(data: st.DataObject) -> None:
    """Live work, clients that leave and scarce memory at any moment: each answer is the undisturbed one."""
    asyncio.run(_disturbed(data))


async def _disturbed(data: st.DataObject) -> None:
    loop, library, _ = make(blocks=data.draw(st.integers(12, 40)), slots=data.draw(st.integers(1, 4)))
    expected: list[tuple[Sequence, str, int]] = []
    waiting: list[Sequence] = []
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["batch", "live", "structured", "step", "step", "step", "leave"]))
        if action == "step":
            loop.step_once()
        elif action == "leave" and waiting:
            loop.cancel(waiting.pop())
        elif action != "leave":
            prompt = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=16))
            tokens = data.draw(st.integers(1, 24))
            stop = tuple(data.draw(st.lists(st.sampled_from(["a", "bc", "xyz", "m"]), max_size=2)))
            language = LETTERS if action == "structured" else None
            sequence = loop.submit(ask(live=action == "live", tokens=tokens, stop=stop, language=language), prompt)
            text, count = alone(prompt, min(tokens, library.context - len(prompt)), stop)
            waiting.append(sequence)
            expected.append((sequence, text, count))
    for _ in range(2000):
        if all(sequence.over for sequence, _, _ in expected) and not library.running:
            break
        loop.step_once()
    for sequence, text, count in expected:
        if sequence not in waiting:
            continue
        found = pieces(sequence)
        assert "".join(p.text for p in found) == text
        assert [p.finish is not None for p in found] == [False] * (len(found) - 1) + [True]
        assert found[-1].completion_tokens == count
        assert 0 <= sequence.cached < len(sequence.prompt)
    assert library.running == []


async def test_followers_start_after_their_leaders_first_token() -> None:
    """And find its blocks in the cache."""
    loop, library, _ = make()
    shared = list(range(12))
    first, second, third = (loop.submit(ask(live=False, tokens=3), [*shared, n]) for n in range(3))
    loop.step_once()
    loop.step_once()
    assert [len(step) for step in library.steps] == [1, 3]
    assert (first.cached, second.cached, third.cached) == (0, 12, 12)


async def test_a_grammar_that_ends_the_library_is_refused() -> None:
    """Its request is told so; the others break off with the host and are tried again by their client."""
    loop, library, _ = make()
    plain = loop.submit(ask(live=True, tokens=9), [1])
    loop.step_once()
    pieces(plain)
    culprit = loop.submit(ask(live=True, tokens=9, language=LETTERS), [2])
    library.broken = True
    with pytest.raises(RuntimeError):
        await loop.run()
    assert [piece.finish for piece in pieces(culprit)] == ["refused"]
    assert pieces(plain) == []


async def test_the_loop_sleeps_when_there_is_nothing_to_do() -> None:
    """And wakes for the next request."""
    loop, library, _ = make()
    running = asyncio.create_task(loop.run())
    sequence = loop.submit(ask(live=True, tokens=1), [1])
    assert (await asyncio.wait_for(sequence.pieces.get(), 5)).finish == "length"
    steps = len(library.steps)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(library.steps) == steps
    again: Any = loop.submit(ask(live=False, tokens=1), [1])
    assert (await asyncio.wait_for(again.pieces.get(), 5)).finish == "length"
    running.cancel()


def test_a_long_batch_prompt_is_read_in_slices() -> None:
    """Live work comes between two of them, and the answer is the undisturbed one."""
    loop, library, metrics = make(blocks=1000, reads_s=1e6)
    prompt = [n % 3 for n in range(1300)]
    batch = loop.submit(ask(live=False, tokens=5), prompt)
    loop.step_once()
    live = loop.submit(ask(live=True, tokens=3), [1, 2])
    while not batch.over:
        loop.step_once()
    assert library.added == [512, 2, 768, 1024, 1280, 1300]
    assert pieces(live)[-1].finish == "length"
    assert "".join(p.text for p in pieces(batch)) == alone(prompt, 5)[0]
    assert value(metrics, "recomputed_tokens_total") == 0
    assert library.running == []


def test_prompts_are_read_by_the_block_until_live_work_was_away_for_long() -> None:
    """The next live request is expected while the last one is remembered, and that begins when it ends."""
    now = [1000.0]
    loop, library, _ = make(blocks=1000, reads_s=BLOCK / QUICK_S, clock=lambda: now[0])
    live = loop.submit(ask(live=True, tokens=30), [1, 2])
    for _ in range(10):
        loop.step_once()
        now[0] += 60
    assert pieces(live)[-1].finish is None
    while not live.over:
        loop.step_once()
    ends = []
    for passed_s in (LATELY_S - 1, 1):
        now[0] += passed_s
        library.added.clear()
        batch = loop.submit(ask(live=False, tokens=1), [int(passed_s) % 3] * 12)
        while not batch.over:
            loop.step_once()
        ends.append(list(library.added))
    assert ends == [[4, 8, 12], [12]]


def test_a_client_that_leaves_while_its_prompt_is_read_frees_its_seat_after_the_first_token() -> None:
    """Not before: the library would spoil its cache. Nothing more is handed out."""
    loop, library, _ = make()
    leaving = loop.submit(ask(live=True, tokens=50), [1] * 20)
    loop.step_once()
    loop.cancel(leaving)
    assert len(library.running) == 1
    for _ in range(4):
        loop.step_once()
    assert library.running == []
    assert pieces(leaving) == []


class Obedient(Letters):
    """A library that obeys the first letter of a grammar, where there is only one, and nothing after it."""

    def add(self, tokens: list[int], *, limit: int, sampling: Sampling, grammar: str | None, kept: int) -> Running:
        """Take a sequence; the letter that its grammar demands is the next one."""
        handle = super().add(tokens, limit=limit, sampling=sampling, grammar=grammar, kept=kept)
        body = (grammar or "").partition("root ::= ")[2]
        handle.forced = ord(body[1]) - 97 if body.startswith('"') else None
        return handle


def test_an_answer_that_leaves_its_language_is_taken_back_to_it() -> None:
    """The grammar that the library gets does not count to 9; what is one too many is never handed out."""
    library, metrics = Obedient(64), Metrics()
    loop = StepLoop(library, metrics, slots=1, block=BLOCK)
    language = Language(seq(repeat(LETTER, 9, 9), Literal("zz")), {})
    sequence = loop.submit(ask(live=True, tokens=50, language=language), [1, 2])
    while not sequence.over:
        loop.step_once()
    found = pieces(sequence)
    assert "".join(p.text for p in found) == alone([1, 2], 9)[0] + "zz"
    assert (found[-1].finish, found[-1].completion_tokens) == ("stop", 11)
    assert value(metrics, "steers_total") >= 1
    assert library.running == []


@pytest.mark.parametrize("tokens", [2, 5, 20])
def test_an_answer_that_would_not_end_is_closed_within_its_tokens(tokens: int) -> None:
    """The shortest ending is written while there are tokens for it."""
    loop, library, metrics = make()
    language = Language(seq(repeat(LETTER, 0, None), Literal("!!")), {})
    sequence = loop.submit(ask(live=True, tokens=tokens, language=language), [1, 1])
    while not sequence.over:
        loop.step_once()
    found = pieces(sequence)
    if tokens > 2:
        assert language.fits("".join(p.text for p in found))
        assert found[-1].finish == "stop"
        assert value(metrics, "closings_total") == 1
    assert found[-1].completion_tokens <= tokens
    assert library.running == []


def test_an_engine_that_does_not_heed_its_grammar_fails_the_answer() -> None:
    """It does not go round for ever."""
    loop, library, _ = make()
    language = Language(seq(repeat(LETTER, 3, 3), Literal("!!")), {})
    sequence = loop.submit(ask(live=True, tokens=50, language=language), [1, 2])
    for _ in range(20):
        loop.step_once()
    assert pieces(sequence)[-1].finish == "failed"
    assert library.running == []
