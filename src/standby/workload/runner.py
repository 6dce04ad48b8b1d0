"""The loop of a job: one pass over its parts, again and again, until every row has its outcome.

`run_once` does what can be done now and says how long nothing will be due; everything it learns is on disk before it
acts on it. So it may be stopped at any moment, by Ctrl-C, a signal or a power cut, and goes on where it was.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anthropic
import httpx2
import jsonschema_rs

from standby.pricing.rates import dollars
from standby.workload import collect
from standby.workload.bodies import Bodies, lines_of, with_more_room
from standby.workload.collect import Found, Tries
from standby.workload.compared import predicted
from standby.workload.costs import cost_of, prices_at
from standby.workload.elapsed import Elapsed
from standby.workload.faults import NoAccess, OverBudget, QueueFull, Refused, Unavailable, Uncertain, WaitOver
from standby.workload.jobfile import Item, JobFile, Part
from standby.workload.outcomes import AGAIN, STOPS_THE_LINE, WHEN_ASKED, Validate, is_tried_again
from standby.workload.parts import Canary, Limits
from standby.workload.service import ENDED, Seen, Service
from standby.workload.spent import Spent
from standby.workload.states import FIRST_WAIT_S, LONGEST_WAIT_S, QUEUE_GROWTH, PartState, poll_wait_s

TICK_S = 1.0
"""Longest sleep at once: a laptop that slept notices soon after it wakes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How patient a job is, and what it tries again."""

    first_poll_s: float = FIRST_WAIT_S
    settle_s: float = 60.0
    """How long the list is watched for a batch whose create was not answered, before it counts as not made.

    As long a batch must be unknown to the service before it counts as deleted: right after its create it may be.
    """
    look_s: float = 3.0
    """Between two looks at the list."""
    queue_s: float = 60.0
    """Wait after a full queue that names no time."""
    patience_s: float = 900.0
    """How long the service may be unreachable, in a row, before the command gives up. The batches run on."""
    download_tries: int = 6
    """How often results are read before what is short is kept as it is."""
    download_pause_s: float = 2.0
    """Between the first two of them; each further one is twice as long, up to 30 s."""
    retries: int = 3
    is_more_room: bool = False
    """Answers cut at `max_tokens` are asked for again with twice as much."""
    limits: Limits = field(default_factory=Limits)
    canary: Canary = field(default_factory=Canary)


@dataclass(slots=True, kw_only=True)
class View:
    """What a person wants to see of a running job."""

    parts: dict[str, int] = field(default_factory=dict)
    """Parts by state."""
    items: int = 0
    done: int = 0
    """Items with an outcome, and of running parts what the service counts. Fewer again when some are tried again."""
    is_live: bool = False
    """Whether the service counts while a batch runs, as far as was seen: Standby does, Claude counts at the end."""
    round: int = 0
    again: int = 0
    """Items on their way that are tried again."""
    began_at: str | None = None
    """When the first batch was made (RFC 3339), and when the next one expires."""
    expires_at: str | None = None
    spent_pico: int | None = None
    """Charged for the parts that are done, and for running ones as Standby tells; None where a price is not known."""
    predicted_pico: tuple[int, int] | None = None
    """Of the whole job, as it was estimated."""
    expected_s: tuple[float, float] | None = None
    """How long such a job took before, if that is known."""
    doing: str = ""
    """What is done at this moment, if it takes long."""
    note: str = ""
    """Why nothing moves, if so."""


Say = Callable[[View], None]


def silent(view: View) -> None:
    """Say nothing."""
    del view


class Runner:
    """Drives one open job."""

    def __init__(
        self,
        job: JobFile,
        service: Service,
        pace: Pace,
        *,
        say: Say = silent,
        wait: Callable[[float], None] = time.sleep,
        clock: Elapsed | None = None,
    ) -> None:
        """Take an open job; `clock` says what has passed, also while a laptop slept."""
        self._job, self._service, self._pace = job, service, pace
        self._say, self._wait, self._clock = say, wait, clock or Elapsed()
        self._polls: dict[int, int] = {}
        """How often each part was looked at that is at the service."""
        self._due: dict[int, float] = {}
        self._since: dict[tuple[str, int], float] = {}
        """Since when, on the steady clock, something is so: what it is, and of which part."""
        self._unreachable_since: float | None = None
        self._failures = 0
        self._submit_from = 0.0
        self._refused = 0
        """How often in a row the queue was full."""
        self._counts: dict[int, int] = {}
        self._expires: dict[int, str] = {}
        self._note = ""
        self._is_live = False
        self._charged: dict[int, int] = {}
        """Of running parts, by the service, if it tells: in pico-dollars."""
        self._spent = Spent(job, prices_at(job.meta("created")))
        self._validate = _validator(job)

    def run(self, *, until: Callable[[], bool] | None = None, wait_s: float | None = None) -> None:
        """Run until every row has its outcome, or `until` says so; `WaitOver` after `wait_s` seconds."""
        end = None if wait_s is None else self._clock() + wait_s
        self._say(self.view())
        while True:
            pause = self._guarded()
            self._say(self.view())
            if pause is None or (until is not None and until()):
                return
            if end is not None and self._clock() >= end:
                raise WaitOver("the time to wait is over; the batches run on, and the same command goes on with them")
            self._sleep(pause, end)

    def run_once(self) -> float | None:
        """Do what is due; return the seconds until more is, None if all is done."""
        self._note = ""
        self._stop_if_told()
        parts = self._job.parts()
        for part in parts:
            self._patiently(part, parts)
        parts = self._job.parts()
        if all(part.state is PartState.DONE for part in parts):
            return 0.0 if self.start_round() else None
        now = self._clock()
        due = min(self._due_of(part, parts, now) for part in parts if part.state is not PartState.DONE)
        return min(max(0.0, due - now), LONGEST_WAIT_S)

    def view(self) -> View:
        """Show where the job is."""
        parts = self._job.parts()
        view = View(note=self._note, items=sum(part.items for part in parts if part.round == 0))
        view.predicted_pico, view.expected_s = predicted(self._job.meta("estimate", ""), cache=self._job.spec.cache)
        view.spent_pico = None if self._say is silent else self._spent.pico(parts)
        view.began_at = min((part.created_at for part in parts if part.created_at), default=None)
        view.done = view.items
        for part in parts:
            view.parts[part.state] = view.parts.get(part.state, 0) + 1
            view.round = max(view.round, part.round)
            counted = self._counts.get(part.number, 0) if part.state is PartState.SUBMITTED else 0
            self._is_live = self._is_live or 0 < counted < part.items
            if view.spent_pico is not None and part.state is not PartState.DONE:
                view.spent_pico += self._charged.get(part.number, 0)
            if part.state in {PartState.READY, PartState.SENDING, PartState.SUBMITTED}:
                view.done -= part.items - counted
                view.again += part.items - counted if part.round else 0
            if part.state is PartState.SUBMITTED and part.number in self._expires:
                view.expires_at = min(view.expires_at or "9", self._expires[part.number])
        view.is_live = self._is_live
        return view

    def tell(self, doing: str) -> None:
        """Show what is done now, before it takes long."""
        view = self.view()
        view.doing = doing
        self._say(view)

    # -- one part

    def _patiently(self, part: Part, parts: list[Part]) -> None:
        """Let a batch that the service cannot show keep no other from going on; one that lasts ends the command.

        A service that is not there at all is not a matter of one part: `_guarded` has patience with it.
        """
        if part.state is PartState.ENDED and not self._is_due(part):
            return
        try:
            self._step(part, parts)
        except Unavailable as error:
            now_in = self._job.part(part.number).state
            if now_in not in {PartState.SUBMITTED, PartState.ENDED} or is_unheard(error):
                raise
            if self._lasts("failing", part) >= self._pace.patience_s:
                raise
            self._note = f"part {part.number}: {error}"
            self._due[part.number] = self._clock() + max(error.after_s or 0.0, self._pace.look_s)
        else:
            self._over("failing", part)

    def _step(self, part: Part, parts: list[Part]) -> None:
        if part.state is PartState.SENDING and self._is_due(part):
            part = self._resolve(part)
        if part.state is PartState.READY and self._may_submit(part, parts):
            part = self._submit(part)
        if part.state is PartState.SUBMITTED and self._is_due(part):
            part = self._poll(part)
        if part.state is PartState.ENDED:
            part = self._download(part)
        if part.state is PartState.COLLECTED:
            self._settle(part)
            self._stop_if_told()

    def _lasts(self, what: str, part: Part) -> float:
        """Say for how many seconds something is so, awake: a laptop that slept gives nothing up sooner."""
        now = self._clock.steady()
        return now - self._since.setdefault((what, part.number), now)

    def _over(self, what: str, part: Part) -> None:
        self._since.pop((what, part.number), None)

    def _may_submit(self, part: Part, parts: list[Part]) -> bool:
        """One create at a time, in order; behind a canary only once that is done; never while the queue is full."""
        if self._clock() < self._submit_from:
            return False
        before = [self._job.part(other.number) for other in parts if other.number < part.number]
        if any(other.state in {PartState.READY, PartState.SENDING} for other in before):
            return False
        canary = self._job.meta("canary", "")
        return not (canary and part.number > 1 and before[0].state is not PartState.DONE)

    def _check_budget(self, part: Part) -> None:
        """Refuse a part that could go above `--max-cost`, whatever was spent and still runs at its dearest."""
        budget, worst = int(self._job.meta("budget_pico", "0")), int(self._job.meta("worst_pico", "0"))
        if not budget:
            return
        parts = self._job.parts()
        whole = sum(other.bytes for other in parts if other.round == 0)
        running = [p for p in parts if p.state not in {PartState.READY, PartState.DONE}]
        factor = 2**part.round if self._pace.is_more_room else 1
        could = sum(worst * p.bytes // whole for p in (*running, part)) * factor
        spent = cost_of(self._job, prices_at(self._job.meta("created"))).charged
        if spent + could > budget:
            raise OverBudget(
                f"part {part.number} was not sent: {dollars(spent)} are spent, it could cost {dollars(could)} more, "
                "and --max-cost allows less"
            )

    def _submit(self, part: Part) -> Part:
        self._check_budget(part)
        newest = self._service.newest()
        anchor = (newest.id, newest.created_at) if newest is not None else None
        part = self._job.move(part, PartState.SENDING, anchor=anchor)
        self.tell(f"sending part {part.number}: {part.items:,} rows, {part.bytes / 1e6:,.1f} MB")
        try:
            made = self._service.create(self._job.body(part.number), key=f"{self._job.tag}-{part.number}")
        except Uncertain as error:
            self._note = f"part {part.number}: {error}; looking for it in the list of batches"
            return part
        except QueueFull as error:
            self._note = str(error)
            self._submit_from = self._clock() + self._queue_wait_s(error.after_s)
            return self._job.move(part, PartState.READY)
        except (Unavailable, Refused, NoAccess):
            self._job.move(part, PartState.READY)
            raise
        self._refused = 0
        return self._adopt(part, made, is_ours=True)

    def _queue_wait_s(self, after_s: float | None) -> float:
        """Say how long to wait for room: longer and longer, for each look sends the whole body."""
        first_s = self._pace.queue_s if after_s is None else after_s
        wait_s = poll_wait_s(self._refused, first_s=first_s, growth=QUEUE_GROWTH)
        self._refused += 1
        return wait_s

    def _resolve(self, part: Part) -> Part:
        """Find out what became of a create that was not answered; nothing is sent again before that is sure."""
        found = self._candidates(part)
        if found:
            self._over("unsure", part)
            return self._adopt(part, found[-1], is_ours=False)
        if self._lasts("unsure", part) >= self._pace.settle_s:
            self._over("unsure", part)
            return self._job.move(part, PartState.READY)
        self._due[part.number] = self._clock() + min(self._pace.look_s, self._pace.settle_s)
        self._note = f"part {part.number}: looking in the list of batches whether the service has it"
        return part

    def _candidates(self, part: Part) -> list[Seen]:
        """List batches that may be this part's, newest first: made after its intent, as large, and nobody's known."""
        taken = {other.batch_id for other in self._job.parts()} | set(part.refuted)
        return [b for b in self._service.newer_than(part.anchor) if b.total == part.items and b.id not in taken]

    def _adopt(self, part: Part, batch: Seen, *, is_ours: bool) -> Part:
        """Take a batch as this part; one that was only found by its place and size is proved by its results."""
        self._polls[part.number] = 0
        self._plan_poll(part, batch.after_s)
        self._expires[part.number] = batch.expires_at
        return self._job.move(
            part, PartState.SUBMITTED, batch_id=batch.id, is_ours=int(is_ours), created_at=batch.created_at
        )

    def _poll(self, part: Part) -> Part:
        batch = self._service.retrieve(str(part.batch_id))
        if batch is None or (batch.status == ENDED and not batch.results_url):
            return self._missed(part, batch)
        self._over("unknown", part)
        self._counts[part.number] = batch.total - batch.counts.get("processing", batch.total)
        self._expires[part.number] = batch.expires_at
        if self._is_live and self._say is not silent:
            self._charged[part.number] = self._service.charged(batch.id) or 0
        if batch.status == ENDED:
            self._polls.pop(part.number, None)
            return self._job.move(part, PartState.ENDED, ended_at=batch.ended_at)
        self._plan_poll(part, batch.after_s)
        return part

    def _missed(self, part: Part, batch: Seen | None) -> Part:
        """Look for a while at a batch that is unknown, or has ended without results; then these are no more.

        A service may not know a batch in the first moments after its create.
        """
        is_archived = batch is not None and batch.archived_at is not None
        if is_archived or self._lasts("unknown", part) >= self._pace.settle_s:
            self._over("unknown", part)
            return self._gone(part)
        self._due[part.number] = self._clock() + min(self._pace.look_s, self._pace.settle_s)
        self._note = f"part {part.number}: the service has no results of {part.batch_id}; looking again"
        return part

    def _gone(self, part: Part) -> Part:
        """Name every row of a batch whose results are no more; nobody can say what they were.

        If that batch was only found by its size, and there is another one of it, that may be this part's.
        """
        self._polls.pop(part.number, None)
        if not part.is_ours and self._candidates(part):
            return self._refute(part)
        return self._job.settle(part, [])

    def _refute(self, part: Part) -> Part:
        refuted = (*part.refuted, str(part.batch_id))
        return self._job.move(part, PartState.SENDING, batch_id=None, refuted=refuted, created_at=None)

    def _download(self, part: Part) -> Part:
        batch = self._service.retrieve(str(part.batch_id))
        if batch is None or not batch.results_url:
            return self._missed(part, batch)
        self._over("unknown", part)
        self.tell(f"downloading the results of part {part.number}")
        tries = Tries(times=self._pace.download_tries, first_pause_s=self._pace.download_pause_s, wait=self._wait)
        found = collect.download(self._service, self._job, part, batch, tries)
        if not found.ours:
            return self._others(part, found)
        return self._job.move(part, PartState.COLLECTED, is_ours=1)

    def _others(self, part: Part, found: Found) -> Part:
        """Go on looking for a batch whose place another's took; one that the service itself named stays ours."""
        self._job.results(part.number).unlink()
        if part.is_ours or found.lines < part.items:
            raise Unavailable(f"the results of {part.batch_id} hold no row of this job")
        return self._refute(part)

    def _settle(self, part: Part) -> None:
        self.tell(f"reading the results of part {part.number}")
        account = collect.Account()
        rows = collect.settled(self._job, part, account, self._validate)
        self._job.settle(part, rows, found=account.facts, stop=lambda: self._why_to_stop(part))

    def _why_to_stop(self, part: Part) -> str:
        """Say why nothing more may be sent: a part that failed as a whole, or for a reason that is not its rows'."""
        if not any(other.state is PartState.READY for other in self._job.parts()):
            return ""
        for cause, count in self._job.causes(part.number).items():
            if cause and cause not in AGAIN and (cause in STOPS_THE_LINE or count == part.items):
                return (
                    f"{count:,} of {part.items:,} rows of part {part.number} failed with {cause}; the other parts "
                    "were not sent. See `standby report`, and mend it before the same command goes on"
                )
        return ""

    def _stop_if_told(self) -> None:
        """Stop the line, once; also if the process died before it could say so."""
        if words := self._job.meta("stopped", ""):
            self._job.note(stopped="")
            raise Refused(words)

    # -- rounds

    def start_round(self) -> bool:
        """Send what may be tried again as new parts; say whether there is any."""
        parts, mended = self._job.parts(), int(self._job.meta("mended_round", "-1"))
        if self._is_stuck(parts, mended) or not any(self._chosen(part, mended) for part in parts):
            return False
        with Bodies(self._job, self._pace.limits, first=len(parts) + 1) as bodies:
            self._job.again(self._moved(parts, mended, bodies), bodies.parts, parts[-1].round + 1)
        return True

    def _is_stuck(self, parts: list[Part], mended: int) -> bool:
        """Whether something failed, since a person asked for more tries, that only a person can mend."""
        return any(STOPS_THE_LINE & self._job.causes(part.number).keys() for part in parts if part.round > mended)

    def _chosen(self, part: Part, mended: int) -> dict[bytes, tuple[int, bool]]:
        """Choose the items of a part that run again: the row of each, from 1, and whether it gets more room."""
        most = self._pace.retries + int(self._job.meta("more_tries", "0"))

        def runs_again(item: Item) -> bool:
            if item.cause in WHEN_ASKED:
                return part.round <= mended
            return is_tried_again(item.cause or "", item.tries, most=most, is_more_room=self._pace.is_more_room)

        failed = self._job.failed(part.number)
        return {item.hash: (item.number + 1, item.cause == "max_tokens") for item in failed if runs_again(item)}

    def _moved(self, parts: list[Part], mended: int, bodies: Bodies) -> Iterator[tuple[bytes, int]]:
        """Write the chosen items of all parts into new bodies, one part in memory at a time; say which went where."""
        for part in parts:
            chosen = self._chosen(part, mended)
            for hash_, line in lines_of(self._job.body(part.number), self._job.tag) if chosen else ():
                if hash_ in chosen:
                    row, is_cut = chosen[hash_]
                    yield hash_, bodies.add_line(with_more_room(line) if is_cut else line, row=row)
        bodies.finish()

    # -- time

    def _guarded(self) -> float | None:
        """Run once; while the service cannot be reached, wait longer and longer, but not for ever."""
        try:
            pause = self.run_once()
        except Unavailable as error:
            now = self._clock.steady()
            self._unreachable_since = now if self._unreachable_since is None else self._unreachable_since
            if now - self._unreachable_since >= self._pace.patience_s:
                raise
            self._failures += 1
            self._note = str(error)
            return max(error.after_s or 0.0, min(0.5 * 2.0 ** min(self._failures, 10), self._pace.queue_s))
        self._unreachable_since, self._failures = None, 0
        return pause

    def _sleep(self, pause: float, end: float | None) -> None:
        until = self._clock() + pause
        until = until if end is None else min(until, end)
        while (left := until - self._clock()) > 0:
            self._wait(min(left, TICK_S))
            self._say(self.view())

    def _plan_poll(self, part: Part, after_s: float | None) -> None:
        polls = self._polls.get(part.number, 0)
        self._polls[part.number] = polls + 1
        chance = random.random()  # noqa: S311 - spreads polls, keeps no secret
        first_s = self._pace.first_poll_s * len(self._polls)  # all parts together look no more often than one would
        wait_s = poll_wait_s(polls, first_s=first_s, after_s=after_s, chance=chance)
        self._due[part.number] = self._clock() + wait_s

    def _is_due(self, part: Part) -> bool:
        return self._clock() >= self._due.get(part.number, 0.0)

    def _due_of(self, part: Part, parts: list[Part], now: float) -> float:
        if part.state is PartState.READY:
            waits_for_another = now >= self._submit_from and not self._may_submit(part, parts)
            return math.inf if waits_for_another else self._submit_from
        return self._due.get(part.number, now)


def is_unheard(error: Unavailable) -> bool:
    """Whether nothing answered at all, or what answered was not the service."""
    return isinstance(error.__cause__, (anthropic.APIConnectionError, httpx2.RequestError))


def _validator(job: JobFile) -> Validate | None:
    schema = job.spec.schema
    return None if schema is None else jsonschema_rs.validator_for(schema).is_valid
