"""Load on a real server: threads that create, look, cancel, delete, read and ask, through any number of crashes."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tests.harness import ServerProcess
from tests.history import History, Reply
from tests.kill.recorder import ask
from tests.kill.witness import Witness

MOST_OPEN = 24
PAUSE_S = 0.02
BACK_OFF_S = 0.1


@dataclass(slots=True)
class Crowd:
    """Clients of one server; a context manager. What they see is in the history, what broke them in `errors`."""

    server: ServerProcess
    history: History
    seed: int
    known: list[str] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)
    live_answers: int = 0
    lost: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)
    _witnesses: list[Witness] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        """Start everybody."""
        roles = [
            self.create,
            self.create,
            self.look,
            self.look,
            self.cancel,
            self.delete,
            self.read,
            self.walk,
            self.ask,
        ]
        for number, role in enumerate(roles):
            thread = threading.Thread(target=self._live, args=(role, number), name=f"{role.__name__}-{number}")
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everybody and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        self.lost = sum(witness.lost for witness in self._witnesses)

    def check(self) -> None:
        """Raise what broke a client."""
        if self.errors:
            raise self.errors[0]

    def _live(self, role: Callable[[Witness, random.Random], None], number: int) -> None:
        seen, dice = Witness(self.server, self.history, timeout=20), random.Random(f"{self.seed}-{number}")
        self._witnesses.append(seen)
        while not self._stop.is_set():
            lost = seen.lost
            try:
                role(seen, dice)
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                self.errors.append(error)
                return
            self._stop.wait(PAUSE_S * dice.random() if seen.lost == lost else BACK_OFF_S)

    def create(self, seen: Witness, dice: random.Random) -> None:
        """Create a batch; after a lost answer give up, or try again as an SDK does, or with the same key."""
        if len(self.opened) > MOST_OPEN:
            return
        token = uuid.UUID(int=dice.getrandbits(128)).hex
        items = [ask(token, f"{token[:12]}-{n}", **_faults(dice)) for n in range(dice.choice([1, 2, 5, 20, 60]))]
        manner = dice.choice(["once", "sdk", "key"])
        batch, tries = None, 0
        while batch is None and tries < (1 if manner == "once" else 40) and not self._stop.is_set():
            if manner == "key":
                batch = seen.create(token, items, key=token)
            else:
                batch = seen.create(token, items, retry=tries if manner == "sdk" else None)
            tries += 1
            if batch is None:
                self._stop.wait(0.2)
        if batch:
            with self._lock:
                self.known.append(batch["id"])
                self.opened.add(batch["id"])

    def look(self, seen: Witness, dice: random.Random) -> None:
        """Poll one that is open, or any."""
        batch_id = self._pick(dice)
        batch = seen.look(batch_id) if batch_id else None
        if batch and batch["processing_status"] == "ended":
            self.opened.discard(batch["id"])

    def cancel(self, seen: Witness, dice: random.Random) -> None:
        """Cancel one in six."""
        batch_id = self._pick(dice)
        if batch_id and dice.random() < 1 / 6:
            seen.cancel(batch_id)

    def delete(self, seen: Witness, dice: random.Random) -> None:
        """Delete now and then; batches that run refuse it."""
        batch_id = self._pick(dice)
        if batch_id and dice.random() < 1 / 12 and seen.delete(batch_id) is not Reply.REFUSED:
            self.deleted.add(batch_id)

    def read(self, seen: Witness, dice: random.Random) -> None:
        """Download results, often those that were read before."""
        batch_id = self._pick(dice)
        if batch_id:
            seen.read(batch_id)

    def walk(self, seen: Witness, dice: random.Random) -> None:
        """List everything now and then."""
        if dice.random() < 1 / 10:
            seen.walk(limit=dice.choice([5, 100, 1000]))

    def ask(self, seen: Witness, dice: random.Random) -> None:
        """Ask a live question."""
        del dice
        if seen.live("live"):
            self.live_answers += 1

    def _pick(self, dice: random.Random) -> str | None:
        with self._lock:
            opened = sorted(self.opened)
            if opened and dice.random() < 0.7:
                return dice.choice(opened)
            return dice.choice(self.known[-200:]) if self.known else None


def _faults(dice: random.Random) -> dict[str, int]:
    """Make one item in twenty invalid."""
    return {"max_tokens": 0} if dice.random() < 0.05 else {}
