"""The step loop: carries out what `schedule` decides, steps the library, hands out text.

One thread, one event loop: a step holds the GIL anyway, so between two steps the event loop gets a few
turns to read requests and write answers, and a live request that came in is in the very next step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from standby.host.ask import Ask, Bad, Sampling
from standby.host.guard import Guard
from standby.host.metrics import Metrics
from standby.host.pipeline import Read
from standby.host.prefixes import Prefixes
from standby.host.schedule import (
    CALM,
    LATELY_S,
    RESTART_BELOW,
    Candidate,
    Decision,
    Reading,
    Room,
    decide,
    reading_of,
    slice_end,
)
from standby.host.sequence import Piece, Sequence
from standby.host.text import Writer

TURNS = 8
"""Turns of the event loop between two steps: enough to accept, read, tokenize and queue a request."""
CLOSING = 3
"""Tokens that are left over when a structured answer is closed: one more may make the ending longer."""
LAST_WORDS_S = 0.5
"""How long answers may be written after the library has failed for good."""
log = logging.getLogger("standby.host")


class Library(Protocol):
    """What the loop needs of the library (`pipeline.Pipeline`)."""

    blocks: int
    context: int
    pieces: Any

    def add(self, tokens: list[int], *, limit: int, sampling: Sampling, grammar: str | None, kept: int) -> Any:
        """Hand over a sequence; returns its handle."""
        ...

    def step(self) -> None:
        """Compute one step."""
        ...

    def busy(self) -> bool:
        """Whether anything is left to do."""
        ...

    def read(self, handle: Any) -> Any:
        """Take new tokens."""
        ...

    def encode(self, text: str) -> list[int]:
        """Turn text into tokens."""
        ...


class StepLoop:
    """All sequences of this engine."""

    def __init__(
        self,
        library: Library,
        metrics: Metrics,
        *,
        slots: int,
        block: int,
        reads_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin idle; `reads_s` is how many prompt tokens a second the library reads, if that was measured."""
        self._library = library
        self._metrics = metrics
        self._slots = slots
        self._block = block
        self._quick = reading_of(reads_s, block)
        self._clock = clock
        self._live_s = -LATELY_S
        """When live work was here last."""
        self._prefixes = Prefixes(total=library.blocks, block=block)
        self._waiting: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._next = 0
        self._wake = asyncio.Event()
        metrics.watch(self._waiting, self._running, self._prefixes)

    def submit(self, ask: Ask, prompt: list[int]) -> Sequence:
        """Queue a request; its text comes out of `pieces`. Raises `Bad` if the prompt is too long."""
        left = self._library.context - len(prompt)
        if left < 1:
            raise Bad(
                f"prompt is too long: {len(prompt)} tokens > {self._library.context - 1} maximum",
                code="context_length_exceeded",
            )
        self._next += 1
        sequence = Sequence(
            number=self._next,
            ask=ask,
            prompt=prompt,
            limit=min(ask.max_tokens or left, left),
            writer=Writer(ask.stop),
            guard=_guard(ask),
            prompt_keys=self._prefixes.keys(prompt),
        )
        self._waiting[sequence.number] = sequence
        self._metrics.asked(ask.live, len(prompt))
        self._wake.set()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Stop a request whose client is gone; harmless if it is over."""
        if sequence.over:
            return
        self._metrics.cancelled(sequence.ask.live)
        if sequence.number not in self._running or sequence.started:
            self._leave(sequence)
        self._waiting.pop(sequence.number, None)
        sequence.over = True  # one that reads its prompt stays until its first token; see `schedule`, rule 2
        self._wake.set()

    async def run(self) -> None:
        """Step for ever; ends only with an exception of the library, after which it cannot go on."""
        try:
            while True:
                if not self._waiting and not self._running and not self._library.busy():
                    self._wake.clear()
                    await self._wake.wait()
                self.step_once()
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        except RuntimeError:
            self._refuse_new_grammars()
            await asyncio.sleep(LAST_WORDS_S)
            raise

    def _refuse_new_grammars(self) -> None:
        """Tell the likely culprits, so that they do not come back and end the next host as well."""
        for sequence in self._running.values():
            if sequence.structured and not sequence.started and not sequence.is_slice:
                sequence.pieces.put_nowait(Piece(text="", completion_tokens=0, finish="refused"))

    def step_once(self) -> None:
        """Decide, stop, start, compute one step, hand out what came."""
        self._carry_out(self._decide())
        if not self._library.busy():
            return
        began = time.perf_counter()
        self._library.step()
        self._metrics.stepped(time.perf_counter() - began, len(self._running))
        for sequence in list(self._running.values()):
            self._collect(sequence)
        self._prefixes.occupy(sum(self._unkeyed(s) for s in self._running.values()))

    def _decide(self) -> Decision:
        waiting = [self._waiting_candidate(s) for s in self._waiting.values()]
        running = [self._running_candidate(s) for s in self._running.values()]
        used = self._prefixes.pinned + sum(self._unkeyed(s) for s in self._running.values())
        if any(c.live for c in (*waiting, *running)):
            self._live_s = self._clock()
        room = Room(
            slots=self._slots,
            block=self._block,
            blocks=self._library.blocks - 1,
            used=used,
            reading=self._reading(),
        )
        return decide(waiting, running, room)

    def _reading(self) -> Reading:
        return self._quick if self._clock() - self._live_s < LATELY_S else CALM

    def _waiting_candidate(self, sequence: Sequence) -> Candidate:
        keys = sequence.prompt_keys
        hits = self._prefixes.hits(keys)
        return Candidate(
            number=sequence.number,
            live=sequence.ask.live,
            tokens=len(sequence.prompt) + len(sequence.kept),
            ahead=sequence.limit - len(sequence.kept),
            structured=sequence.structured,
            todo=tuple(keys[hits:]),
            shared=self._prefixes.shared(keys, others_than=0),
        )

    def _running_candidate(self, sequence: Sequence) -> Candidate:
        return Candidate(
            number=sequence.number,
            live=sequence.ask.live,
            tokens=len(sequence.prompt) + len(sequence.kept),
            ahead=sequence.limit - len(sequence.kept),
            generated=len(sequence.kept),
            structured=sequence.structured,
            started=sequence.started,
            todo=sequence.todo,
            shared=self._prefixes.shared(sequence.held, others_than=1),
        )

    def _unkeyed(self, sequence: Sequence) -> int:
        return -(-(len(sequence.prompt) + len(sequence.kept)) // self._block) - len(sequence.held)

    def _carry_out(self, decision: Decision) -> None:
        for number in decision.pause:
            self._pause(self._running[number])
        for number in decision.admit:
            self._admit(self._waiting.pop(number))

    def _admit(self, sequence: Sequence) -> None:
        tokens = sequence.tokens
        found = self._prefixes.cached(tokens, self._prefixes.keys(tokens))
        read = max(found, sequence.read)
        end = len(tokens) if sequence.ask.live else slice_end(len(tokens), read, self._block, self._reading())
        keys = self._prefixes.keys(tokens[:end])
        hits = self._prefixes.hits(keys)
        reads_on = sequence.is_slice
        sequence.handle = self._begin(sequence, tokens[:end], is_slice=end < len(tokens))
        sequence.read = end
        if sequence.ran and not reads_on:
            self._metrics.resumed(len(tokens) - found)
        elif not sequence.ran:
            sequence.cached, sequence.ran = found, True
            self._metrics.cached(sequence.ask.live, found)
        sequence.started = False
        sequence.todo = tuple(keys[hits:])
        sequence.held = keys[:hits]
        self._prefixes.hold(sequence.held)
        self._running[sequence.number] = sequence

    def _begin(self, sequence: Sequence, tokens: list[int], *, is_slice: bool) -> Any:
        """Hand it over; a slice is a request of its own whose one token is thrown away and whose blocks stay cached."""
        sequence.is_slice = is_slice
        if is_slice:
            return self._library.add(tokens, limit=1, sampling=Sampling(temperature=0), grammar=None, kept=0)
        return self._library.add(
            tokens,
            limit=sequence.limit - len(sequence.kept),
            sampling=sequence.ask.sampling,
            grammar=sequence.guard.grammar() if sequence.guard is not None else None,
            kept=len(sequence.kept),
        )

    def _pause(self, sequence: Sequence) -> None:
        self._leave(sequence)
        if sequence.structured:
            self._metrics.restarted(len(sequence.kept))
            sequence.kept = []
            sequence.unsent = ""
            sequence.writer = Writer(sequence.ask.stop)
            sequence.guard = _guard(sequence.ask)
        else:
            self._metrics.paused()
        self._waiting[sequence.number] = sequence

    def _leave(self, sequence: Sequence) -> None:
        """Take it out of the library; its whole blocks stay in the cache until they are needed."""
        if self._running.pop(sequence.number, None) is None:
            return
        sequence.handle.cancel()
        sequence.handle = None
        self._prefixes.release(sequence.held)
        sequence.held = []

    def _collect(self, sequence: Sequence) -> None:
        read = self._library.read(sequence.handle)
        if sequence.over or sequence.is_slice:
            self._end_of_reading(sequence, read)
            return
        if read.tokens and not sequence.started:
            sequence.started = True
            sequence.todo = ()
        text, fits = self._take(sequence, read.tokens)
        self._metrics.generated(sequence.ask.live, len(read.tokens))
        finish = self._finish(sequence, read)
        if (
            sequence.guard is not None
            and finish != "failed"
            and not self._stands(sequence, sequence.guard, fits, finish)
        ):
            if not sequence.guard.gets_nowhere():
                self._steer(sequence, sequence.guard)
                self._hand_out(sequence, text, None)
                return
            finish = "failed"
        if read.tokens:
            self._settle(sequence, len(sequence.prompt) + len(sequence.kept) - 1)
        if finish is None and sequence.guard is not None and self._must_close(sequence, sequence.guard):
            text += self._close(sequence, sequence.guard)
            finish = "stop"
        if finish is not None:
            text += sequence.writer.finish()
        self._hand_out(sequence, text, finish)
        if finish is not None:
            self._leave(sequence)
            sequence.over = True

    def _take(self, sequence: Sequence, tokens: list[int]) -> tuple[str, bool]:
        """Keep new tokens; return their text, and whether all of it may stand in a structured answer."""
        text, fits = "", True
        for token in tokens:
            sequence.kept.append(token)
            data = self._library.pieces.of(token)
            if sequence.guard is not None:
                good, fits = sequence.guard.take(data, tokens=len(sequence.kept))
                data = good.encode()
            text += sequence.writer.feed(data)
            if sequence.writer.matched is not None or not fits:
                break
        return text, fits or sequence.writer.matched is not None

    def _finish(self, sequence: Sequence, read: Read) -> str | None:
        """Say whether and how it ends: by a stop string, by itself, or because nothing can follow its structure."""
        over = sequence.guard is not None and sequence.guard.is_over
        return "stop" if over or sequence.writer.matched is not None else read.finish

    def _stands(self, sequence: Sequence, guard: Guard, fits: bool, finish: str | None) -> bool:  # noqa: FBT001
        """Whether a structured answer is what it must be: all of it fits, and where it ends it may end."""
        return fits and (finish != "stop" or guard.can_end or sequence.writer.matched is not None)

    def _must_close(self, sequence: Sequence, guard: Guard) -> bool:
        """Whether so few tokens are left that the shortest ending must be written now. Too late is never."""
        left = sequence.limit - len(sequence.kept)
        if left > guard.least + CLOSING:
            return False
        needs = len(self._library.encode(guard.since + guard.ending()))
        return 0 < needs <= left <= needs + CLOSING

    def _close(self, sequence: Sequence, guard: Guard) -> str:
        """End a structured answer that has no tokens left for more; returns the ending."""
        self._metrics.closed()
        ending = guard.ending()
        sequence.kept = sequence.kept[: guard.whole] + self._library.encode(guard.since + ending)
        return sequence.writer.feed(ending.encode())

    def _steer(self, sequence: Sequence, guard: Guard) -> None:
        """Take back what does not fit and go on from there, with a grammar that rules it out."""
        self._metrics.steered()
        computed = min(guard.whole, len(sequence.kept) - 1)
        sequence.kept = sequence.kept[: guard.whole]
        self._settle(sequence, len(sequence.prompt) + computed)
        sequence.kept += self._library.encode(guard.since) if guard.since else []
        guard.whole, guard.since = len(sequence.kept), ""
        self._leave(sequence)
        self._admit(sequence)

    def _end_of_reading(self, sequence: Sequence, read: Read) -> None:
        """After its first token a sequence whose client left may go; one that read a slice waits for its next."""
        if not read.tokens and read.finish is None:
            return
        self._settle(sequence, sequence.read)
        self._leave(sequence)
        if not sequence.over:
            self._waiting[sequence.number] = sequence

    def _settle(self, sequence: Sequence, computed: int) -> None:
        """Note the whole blocks among the first `computed` tokens."""
        whole = computed // self._block
        if whole > len(sequence.held):
            keys = self._prefixes.keys(sequence.tokens[: whole * self._block])
            fresh = keys[len(sequence.held) :]
            self._prefixes.hold(fresh)
            sequence.held = keys

    def _hand_out(self, sequence: Sequence, text: str, finish: str | None) -> None:
        """Queue text. A structured batch answer is held back while it may still start again."""
        if sequence.structured and not sequence.ask.live and finish is None and len(sequence.kept) < RESTART_BELOW:
            sequence.unsent += text
            return
        text, sequence.unsent = sequence.unsent + text, ""
        if text or finish is not None:
            done = len(sequence.kept)
            piece = Piece(text=text, completion_tokens=done, finish=finish, stop=sequence.writer.matched)
            sequence.pieces.put_nowait(piece)


def _guard(ask: Ask) -> Guard | None:
    return Guard(ask.language) if ask.language is not None else None
