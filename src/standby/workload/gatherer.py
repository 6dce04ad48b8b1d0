"""Gathers calls into batches and brings each its outcome: the loops behind the drop-in client.

Rules are those of a job (`runner.py`): an intent is written down before a create, a create whose answer is lost is
looked up in the list of batches and never repeated blindly, one that was only found there is proved by the names in its
results, a full queue is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anthropic

from standby.workload import calls as store
from standby.workload.faults import LocalState, QueueFull, Unavailable, Uncertain, WorkloadError
from standby.workload.flights import Call, Copies, Flight, Lane, Way, content_of, id_of
from standby.workload.names import item_of, new_tag
from standby.workload.parts import HEAD, TAIL, Limits
from standby.workload.posting import Postbox
from standby.workload.replies import Outcome, named, refused, too_large
from standby.workload.runner import TICK_S, Pace
from standby.workload.service import ENDED, Seen
from standby.workload.states import poll_wait_s

KEPT_AT_ONCE = 500
LINGER_S = 10.0
"""After a call's time was over: the SDK tries again within eight seconds."""
GOODBYE_S = 5.0
"""For canceling a batch while the program ends."""
LONGEST_BACKOFF_S = 30.0
PROOF_LINES = 100
"""Rows of a batch that was found in the list; one of them must be ours."""


class Gatherer:
    """Lanes of calls that wait, and flights of those that were sent. Belongs to one event loop at a time."""

    def __init__(
        self, *, window_s: float, longest_s: float, limits: Limits, pace: Pace, folder: Path | None = None
    ) -> None:
        """Open nothing yet: that is done by the first call."""
        self._window_s, self._longest_s = window_s, longest_s
        self._limits, self._pace, self._folder = limits, pace, folder
        self._files = contextlib.ExitStack()
        self._calls: store.Calls | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_flushing = False
        self._begin()

    def _begin(self) -> None:
        self._copies = Copies()
        self._lanes: dict[Way, Lane] = {}
        self._flights: dict[bytes, Flight] = {}
        self._taken: set[str] = set()
        """Batches that are known to be another flight's."""
        self._resumed: set[str] = set()
        """Services whose flights of an earlier process were taken up."""
        self._tasks: dict[asyncio.Task[None], Flight | Lane] = {}
        self._creating = asyncio.Lock()
        self._inside = 0
        self._left = asyncio.Event()

    @property
    def keeps(self) -> bool:
        """Whether answers outlive the program."""
        return self._folder is not None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Count a call for as long as the SDK has it, tries and pauses included: `drain` waits for it."""
        self._enter()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._left.set()

    async def answer(
        self, client: anthropic.AsyncAnthropic, way: Way, params: bytes, timeout_s: float | None
    ) -> Outcome:
        """Bring a call its outcome; `TimeoutError` after so many seconds."""
        self._open(client, way)
        content = content_of(way, params)
        copy = self._copies.take(content)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = Call(
            id=id_of(content, copy), content=content, copy=copy, params=params, way=way, client=client, future=future
        )
        outcome: Outcome | None = None
        lingers_s = 0.0
        try:
            outcome = self._kept(call) or self._depart(call)
            if outcome is None:
                async with asyncio.timeout(timeout_s):
                    outcome = await future
        except TimeoutError:
            lingers_s = LINGER_S
            raise
        finally:
            self._leave(call, outcome, lingers_s)
        return outcome

    def _kept(self, call: Call) -> Outcome | None:
        found = self._store.answer(call.id)
        return None if found is None else Outcome(kind="succeeded", body=found[0], batch_id=found[1])

    def _depart(self, call: Call) -> Outcome | None:
        """Let a call wait for a flight: the one that has it already, or the next one of its lane."""
        most = self._limits.bytes - len(HEAD) - len(TAIL)
        if call.size > most:
            return too_large(call.size, most)
        if flight := self._flights.get(call.id):
            flight.board(call)
            return None
        self._queue(call)
        return None

    def _queue(self, call: Call) -> None:
        lane = self._lanes.get(call.way)
        if lane is None:
            lane = self._lanes[call.way] = Lane(way=call.way, limits=self._limits)
            self._start(self._fill(lane), lane)
        lane.add(call, self._now())

    def _leave(self, call: Call, outcome: Outcome | None, lingers_s: float) -> None:
        is_kept = self.keeps and outcome is not None and outcome.kind == "succeeded"
        if not is_kept:
            self._copies.give_back(call.content, call.copy)
        if (lane := self._lanes.get(call.way)) is not None and lane.remove(call):
            return
        if flight := self._flights.get(call.id):
            flight.leave(call, self._now() + lingers_s)

    # -- sending

    async def _fill(self, lane: Lane) -> None:
        """Send what gathers in a lane, batch after batch, until nothing waits there."""
        try:
            while lane.queue:
                await self._wait_until_due(lane)
                if taken := lane.take():
                    await self._send(lane, taken)
        finally:
            del self._lanes[lane.way]

    async def _wait_until_due(self, lane: Lane) -> None:
        while lane.queue and not lane.is_full and not self._is_flushing:
            left = lane.due_at(self._window_s, self._longest_s) - self._now()
            if left <= 0:
                return
            lane.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await lane.changed.wait()

    async def _send(self, lane: Lane, calls: list[Call]) -> None:
        """Create a batch of these calls, however long that takes; who does not wait any more stays behind."""
        patience = self._patience()
        while calls := [call for call in calls if not call.future.done()]:
            try:
                async with self._creating:
                    await self._try_to_send(lane.way, calls)
            except QueueFull as error:
                await asyncio.sleep(self._pace.queue_s if error.after_s is None else error.after_s)
            except Unavailable as error:
                wait_s = patience.failed(error)
                if patience.is_over:
                    _tell(calls, Outcome(kind="unreachable", words=str(error)))
                await asyncio.sleep(wait_s)
            except WorkloadError as error:
                _tell(calls, _refusal(error))
            except Exception as error:  # noqa: BLE001 - a full disk, say: nobody may wait for ever
                _fail(calls, error)

    async def _try_to_send(self, way: Way, calls: list[Call]) -> None:
        """Try once; `calls` are then those that have to be sent again, because surely no batch was made."""
        postbox = Postbox(calls[0].client, dict(way.headers))
        newest = await postbox.newest()
        calls[:] = [call for call in calls if not call.future.done()]
        if not calls:
            return
        anchor = (newest.id, newest.created_at) if newest is not None else None
        flight = self._take_off(way, calls, anchor, postbox.workspace)
        try:
            made = await self._create(flight, postbox)
            calls[:] = self._land(flight) if made is None else []
        except WorkloadError:
            calls[:] = self._land(flight)
            raise

    async def _create(self, flight: Flight, postbox: Postbox) -> Seen | None:
        """Create the batch of a flight and watch it; None if it surely was not made, and has to be made anew.

        A create that was not answered is looked for in the list of batches, and made again, the very same, only when
        that shows nothing.
        """
        is_unsure = not flight.lines
        while True:
            if is_unsure and (found := await self._find(flight, postbox)) is not None:
                self._adopt(flight, found, is_ours=False)
                return found
            if not flight.lines:
                return None
            try:
                made = await self._post(flight, postbox)
            except Uncertain:
                is_unsure = True
                continue
            self._adopt(flight, made, is_ours=True)
            return made

    async def _post(self, flight: Flight, postbox: Postbox) -> Seen:
        """Send a create; who gives up in the middle waits a moment for its answer, so that the batch is known."""
        posting = asyncio.ensure_future(postbox.create(flight.lines, key=flight.tag))
        try:
            return await asyncio.shield(posting)
        except asyncio.CancelledError:
            with contextlib.suppress(WorkloadError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    flight.batch_id, flight.is_ours = (await posting).id, True
                self._store.accept(flight.number, flight.batch_id, is_ours=True)
                if not self.keeps:
                    await self._say_goodbye(flight)
            raise

    def _take_off(self, way: Way, calls: list[Call], anchor: tuple[str, str] | None, workspace: str) -> Flight:
        tag, ids = new_tag(), [call.id for call in calls]
        sent = self._store.intend(
            ids, endpoint=way.endpoint, tag=tag, headers=dict(way.headers), workspace=workspace, anchor=anchor
        )
        flight = Flight(
            number=sent.number,
            tag=tag,
            way=way,
            client=calls[0].client,
            items=len(calls),
            workspace=workspace,
            anchor=anchor,
            left=set(ids),
            lines=[call.line(tag) for call in calls],
            waiting={call.id: call for call in calls},
        )
        self._flights |= dict.fromkeys(ids, flight)
        return flight

    async def _find(self, flight: Flight, postbox: Postbox) -> Seen | None:
        """Look for a batch of this size that is newer, for `settle_s` seconds in which the service answers."""
        since: float | None = None
        patience = self._patience()
        while True:
            try:
                newer = await postbox.newer_than(flight.anchor)
            except Unavailable as error:
                wait_s = patience.failed(error)
                if patience.is_over:
                    self._say_unreachable(flight, error)
                await asyncio.sleep(wait_s)
                if patience.is_over and not self.keeps and not flight.waiting:
                    raise
                continue
            patience.succeeded()
            found = [b for b in newer if b.total == flight.items and b.id not in self._taken | {*flight.refuted}]
            if found:
                return found[-1]
            since = self._now() if since is None else since
            if self._now() - since >= self._pace.settle_s:
                return None
            await asyncio.sleep(min(self._pace.look_s, self._pace.settle_s))

    def _adopt(self, flight: Flight, batch: Seen, *, is_ours: bool) -> None:
        flight.batch_id, flight.is_ours = batch.id, is_ours
        if is_ours:
            flight.lines = []
        self._taken.add(batch.id)
        self._store.accept(flight.number, batch.id, is_ours=is_ours)
        self._start(self._watch(flight, batch), flight)

    def _land(self, flight: Flight) -> list[Call]:
        """Forget a flight; return who still waits."""
        self._store.close_batch(flight.number)
        for call in flight.left:
            if self._flights.get(call) is flight:
                del self._flights[call]
        return list(flight.still_waiting())

    # -- bringing home

    async def _watch(self, flight: Flight, batch: Seen) -> None:
        """Wait for the end of a batch and bring its calls their results."""
        try:
            await self._follow(flight, batch)
        except asyncio.CancelledError:
            if not self.keeps and flight.left:
                await self._say_goodbye(flight)
            raise

    async def _follow(self, flight: Flight, batch: Seen | None) -> None:
        polls = 0
        patience = self._patience()
        wait_s = self._poll_s(polls, batch)
        while True:
            await self._pause(flight, wait_s)
            if self._is_forsaken(flight):
                break
            try:
                batch = await _postbox(flight).retrieve(flight.batch_id)
                if await self._bring_home(flight, batch):
                    return
            except Unavailable as error:
                wait_s = patience.failed(error)
                if patience.is_over:
                    self._say_unreachable(flight, error)
                continue
            except WorkloadError as error:
                flight.tell_all(_refusal(error), lingers_until=0.0)
                wait_s = LONGEST_BACKOFF_S
                continue
            patience.succeeded()
            polls += 1
            wait_s = self._poll_s(polls, batch) if flight.unknown_since is None else self._pace.look_s
        await self._say_goodbye(flight)
        self._land(flight)

    def _say_unreachable(self, flight: Flight, error: Unavailable) -> None:
        """Let nobody wait any longer, but wait a moment whether somebody comes back."""
        outcome = Outcome(kind="unreachable", words=str(error), batch_id=flight.batch_id)
        flight.tell_all(outcome, lingers_until=self._now() + LINGER_S)

    async def _bring_home(self, flight: Flight, batch: Seen | None) -> bool:
        """Collect what has ended; whether the flight is over."""
        if batch is None or (batch.status == ENDED and not batch.results_url):
            return await self._is_gone(flight, batch)
        flight.unknown_since = None
        if batch.status != ENDED:
            return False
        for attempt in range(self._pace.download_tries):
            if attempt:
                await asyncio.sleep(min(self._pace.look_s * 2.0**attempt, LONGEST_BACKOFF_S))
            if not await self._collect(flight, batch):
                await self._refute(flight)
                return True
            if not flight.left:
                break
        self._lose(flight)
        return True

    async def _is_gone(self, flight: Flight, batch: Seen | None) -> bool:
        """Believe only after a while that a batch or its results are no more: a service may be slow to know its own."""
        now = self._now()
        flight.unknown_since = now if flight.unknown_since is None else flight.unknown_since
        is_archived = batch is not None and batch.archived_at is not None
        if not is_archived and now - flight.unknown_since < self._pace.settle_s:
            return False
        if flight.is_ours:
            self._lose(flight)
        else:
            await self._refute(flight)
        return True

    async def _collect(self, flight: Flight, batch: Seen) -> bool:
        """Read results once; what was read before is passed over. False if the batch is another's."""
        answers: list[tuple[bytes, Outcome]] = []
        count = 0
        async with contextlib.aclosing(_postbox(flight).results(batch)) as lines:
            async for line in lines:
                count += 1
                found = named(line, flight.batch_id)
                call = item_of(flight.tag, found[0]) if found is not None else None
                if found is not None and call in flight.left:
                    flight.is_ours = True
                    answers.append((call, found[1]))
                elif not flight.is_ours and count >= PROOF_LINES:
                    return False
                if len(answers) >= KEPT_AT_ONCE:
                    self._deliver(flight, answers)
                    answers = []
        self._deliver(flight, answers)
        return flight.is_ours or not count

    def _deliver(self, flight: Flight, answers: list[tuple[bytes, Outcome]]) -> None:
        """Keep answers before anybody hears of them."""
        if self.keeps:
            good = ((call, outcome.body) for call, outcome in answers if outcome.kind == "succeeded")
            self._store.keep(good, flight.batch_id)
        for call, outcome in answers:
            self._flights.pop(call, None)
            flight.settle(call, outcome)

    async def _refute(self, flight: Flight) -> None:
        """Go on looking: the batch of that size was another's."""
        flight.refuted = (*flight.refuted, flight.batch_id)
        flight.batch_id, flight.is_ours, flight.unknown_since = "", False, None
        self._store.refute(flight.number, flight.refuted)
        await self._resume(flight)

    def _lose(self, flight: Flight) -> None:
        """Say of every call that is left that it has no result."""
        self._deliver(flight, [(call, Outcome(kind="missing", batch_id=flight.batch_id)) for call in flight.left])
        self._land(flight)

    # -- giving up

    def _is_forsaken(self, flight: Flight) -> bool:
        is_over = self._is_flushing or self._now() >= flight.lingers_until
        return not self.keeps and not flight.waiting and is_over

    async def _pause(self, flight: Flight, seconds: float) -> None:
        """Sleep, but no longer than somebody waits or may still come back."""
        until = self._now() + seconds
        while (now := self._now()) < until and not self._is_forsaken(flight):
            is_lingering = not self.keeps and not flight.waiting
            flight.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(until, flight.lingers_until if is_lingering else until) - now):
                    await flight.changed.wait()

    async def _say_goodbye(self, flight: Flight) -> None:
        """Cancel a batch that nobody waits for; if that fails, it runs to its end, and nobody hears of it.

        One that was only found by its size is left alone: it may be another program's.
        """
        if not flight.is_ours:
            return
        with contextlib.suppress(WorkloadError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await _postbox(flight).cancel(flight.batch_id)

    async def drain(self) -> None:
        """Send what waits, now, and bring home everything that somebody waits for."""
        self._enter()
        self._is_flushing = True
        try:
            for what in self._tasks.values():
                what.changed.set()
            while self._inside or any(map(self._is_awaited, self._tasks.values())):
                self._left.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._left.wait()
        finally:
            self._is_flushing = False

    def _is_awaited(self, what: Flight | Lane) -> bool:
        return isinstance(what, Lane) or bool(what.waiting) or not self.keeps

    async def abandon(self) -> None:
        """Give up: who waits hears that the client was closed. Batches are canceled, unless their answers are kept."""
        self._enter()
        closed = Outcome(kind="closed")
        for lane in list(self._lanes.values()):
            _tell(list(lane.queue.values()), closed)
        for flight in set(self._flights.values()):
            flight.tell_all(closed, lingers_until=0.0)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        self._files.close()
        self._calls = None

    # -- beginning

    @property
    def _store(self) -> store.Calls:
        assert self._calls is not None, "opened by the first call"
        return self._calls

    def _enter(self) -> None:
        """Forget what belonged to an event loop that is no more."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._begin()

    def _open(self, client: anthropic.AsyncAnthropic, way: Way) -> None:
        """Open the folder, and take up what an earlier process sent to this service."""
        self._enter()
        if self._calls is None:
            self._calls = self._files.enter_context(store.opened(self._folder))
        if way.endpoint in self._resumed:
            return
        self._resumed.add(way.endpoint)
        for sent in self._calls.batches():
            if sent.endpoint == way.endpoint:
                flight = _flight_of(sent, client, way, set(self._calls.under_way(sent.number)))
                self._flights |= dict.fromkeys(flight.left, flight)
                self._taken |= {sent.batch_id} if sent.batch_id else set()
                self._start(self._resume(flight), flight)

    async def _resume(self, flight: Flight) -> None:
        """Go on with a flight, wherever it is; who waits for one that was never made goes with another."""
        if flight.batch_id:
            await self._follow(flight, None)
            return
        again: list[Call] = []
        while True:
            try:
                async with self._creating:
                    if await self._create(flight, _postbox(flight)) is None:
                        again = self._land(flight)
                break
            except LocalState as error:  # another workspace cannot know whether it was made
                flight.tell_all(_refusal(error), lingers_until=0.0)
                await self._pause(flight, LONGEST_BACKOFF_S)
                if self._is_forsaken(flight):
                    self._land(flight)
                    return
            except WorkloadError:
                again = self._land(flight)
                break
        for call in again:
            self._queue(call)

    def _start(self, work: Coroutine[Any, Any, None], what: Flight | Lane) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = what
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for a task that failed."""
        what = self._tasks.pop(task)
        self._left.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(what, Lane):
            _fail(list(what.queue.values()), error)
        else:
            _fail(list(what.waiting.values()), error)
            for call in what.left:
                self._flights.pop(call, None)

    # -- time

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _patience(self) -> _Patience:
        return _Patience(self._pace, self._now)

    def _poll_s(self, polls: int, batch: Seen | None) -> float:
        if batch is None:
            return 0.0
        chance = random.random()  # noqa: S311 - spreads polls, keeps no secret
        first_s = self._pace.first_poll_s * len(self._tasks)  # all batches together look no more often than one would
        return poll_wait_s(polls, first_s=first_s, after_s=batch.after_s, chance=chance)


class _Patience:
    """How long the service has not been reached, in a row."""

    def __init__(self, pace: Pace, now: Callable[[], float]) -> None:
        self._pace, self._now = pace, now
        self._failures = 0
        self._since: float | None = None

    def failed(self, error: Unavailable) -> float:
        """Count a failure; say how long to wait."""
        self._since = self._now() if self._since is None else self._since
        self._failures += 1
        return max(error.after_s or 0.0, min(self._pace.look_s * 2.0 ** min(self._failures - 1, 20), LONGEST_BACKOFF_S))

    def succeeded(self) -> None:
        """Begin anew."""
        self._since, self._failures = None, 0

    @property
    def is_over(self) -> bool:
        """Whether it lasts longer than `patience_s`."""
        return self._since is not None and self._now() - self._since >= self._pace.patience_s


def _postbox(flight: Flight) -> Postbox:
    return Postbox(flight.client, dict(flight.way.headers), workspace=flight.workspace)


def _flight_of(sent: store.Sent, client: anthropic.AsyncAnthropic, way: Way, left: set[bytes]) -> Flight:
    return Flight(
        number=sent.number,
        tag=sent.tag,
        way=Way(endpoint=way.endpoint, credential=way.credential, headers=tuple(sent.headers.items())),
        client=client,
        items=sent.items,
        workspace=sent.workspace,
        anchor=sent.anchor,
        left=left,
        refuted=sent.refuted,
        batch_id=sent.batch_id or "",
        is_ours=sent.is_ours,
    )


def _tell(calls: list[Call], outcome: Outcome) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_result(outcome)


def _fail(calls: list[Call], error: BaseException) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)


def _refusal(error: WorkloadError) -> Outcome:
    """Pass on an answer of the service as it was; without one, say what is wrong as if it had."""
    if isinstance(error.__cause__, anthropic.APIStatusError):
        return refused(error.__cause__.response)
    return Outcome(kind="unusable", words=str(error))
