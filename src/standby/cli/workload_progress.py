"""A running workload, on the terminal: a few lines that move there; elsewhere a line a change, at most one a minute.

Always on standard error. Nothing is coloured if `NO_COLOR` is set, and nothing but ASCII is used where the language of
the environment has no other letters.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from standby.workload.tempo import Tempo

EVERY_S = 60.0
"""Between two lines where no terminal is."""
REFRESH_PER_S = 4.0
WIDEST_BAR = 40
NARROWEST_BAR = 8
STATES = (
    ("ready", "to send"),
    ("sending", "being sent"),
    ("submitted", "running"),
    ("ended", "to collect"),
    ("collected", "to read"),
    ("done", "done"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What lines are drawn with."""

    full: str = "━"
    empty: str = "┈"
    between: str = " · "
    cut: str = "…"


ASCII = Signs(full="#", empty=".", between=" - ", cut="...")


class Shown(Protocol):
    """What a running job is told to."""

    def __call__(self, view: Any) -> None:
        """Take a view of it (`runner.View`)."""

    def now(self, doing: str) -> None:
        """Say what is done before there is a view."""


@contextlib.contextmanager
def progress() -> Iterator[Shown]:
    """Show a job while it runs; what it yields is told each view of it."""
    from rich.console import Console

    from standby.workload.tempo import Tempo

    console = Console(stderr=True, highlight=False)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield Lines(Tempo(), time.time, lambda line: print(line, file=sys.stderr, flush=True))
        return
    screen = Screen(Tempo(), time.time, signs_of(os.environ, sys.stderr.encoding))
    with _live(screen, console), _above(console):
        yield screen


def signs_of(environ: Mapping[str, str], encoding: str | None) -> Signs:
    """Choose what to draw with, by the language of the environment.

    Python itself turns `LANG=C` into `LC_CTYPE=C.UTF-8` (PEP 538); that one says nothing about the terminal.
    """
    if "utf" not in (encoding or "").lower():
        return ASCII
    ctype = environ.get("LC_CTYPE", "")
    lang = environ.get("LANG", "")
    is_coerced = ctype == "C.UTF-8" and lang in {"", "C", "POSIX"}
    named = environ.get("LC_ALL") or ("" if is_coerced else ctype) or lang
    return Signs() if "utf" in named.lower() else ASCII


class Screen:
    """The lines that move on a terminal; it draws itself at any width, as of now."""

    def __init__(self, tempo: Tempo, clock: Callable[[], float], signs: Signs) -> None:
        """Begin with nothing to show; `clock` is wall-clock time in seconds."""
        self._tempo, self._clock, self._signs = tempo, clock, signs
        self._began = clock()
        self._doing = "starting"
        self._view: Any = None

    def __call__(self, view: Any) -> None:
        """Take a view; it is drawn with the next picture."""
        self._tempo.add(self._clock(), view.done)
        self._view = view

    def now(self, doing: str) -> None:
        """Say what is done before there is a view."""
        self._doing = doing

    def lines(self, width: int) -> list[Text]:
        """Draw it as lines that fit."""
        from rich.text import Text

        now, view = self._clock(), self._view
        room = max(width - 1, 20)  # a full line would make some terminals begin another
        if view is None or not view.items:
            words = [f"{self._doing}{self._signs.cut}", _so_far(now - self._began)]
            return [Text(line) for line in fitted(words, room, self._signs)]
        words = facts(view, self._tempo, now, now - self._began)
        found = [_head(view, now - self._began, room, self._signs)]
        found += [Text(line, style="dim") for line in fitted(words, room, self._signs)]
        if view.note:
            found += [
                Text(line, style="yellow") for line in fitted(view.note.split(" "), room, self._signs, between=" ")
            ]
        return found


def facts(view: Any, tempo: Tempo, now: float, elapsed: float) -> list[str]:
    """Say what is known of a running job, the most important first; the command itself runs since `elapsed` seconds."""
    from standby.workload.words import counted, lasting, pace

    found = [view.doing] if view.doing else []
    found.append(_parts(view.parts))
    if view.again:
        found.append(f"{counted(view.again, 'row')} once more")
    rate = tempo.per_s(now) if view.is_live else None
    if rate:
        found.append(pace(rate))
    left = tempo.left_s(now, view.items) if view.is_live else None
    since = _since(view.began_at, now)
    if left is None and view.expected_s is not None and since is not None and since < view.expected_s[1]:
        found.append(f"usually {lasting(view.expected_s[0])} to {lasting(view.expected_s[1])}")
    elif left is not None and left >= 1 and view.done < view.items:
        found.append(f"about {_whole(left)} left")
    found.append(_so_far(elapsed if since is None else since))
    found += _money(view)
    expires = _since(view.expires_at, now)
    if expires is not None:
        found.append(f"expires in {lasting(-expires)}" if expires < 0 else "expired")
    return found


def fitted(words: list[str], width: int, signs: Signs, *, between: str | None = None) -> list[str]:
    """Put words behind each other, in as many lines as they need; one that is too long for a line is cut."""
    glue = signs.between if between is None else between
    lines = [""]
    for word in words:
        shown = word if len(word) <= width else word[: width - len(signs.cut)] + signs.cut
        longer = f"{lines[-1]}{glue}{shown}" if lines[-1] else shown
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shown)
    return lines


def _head(view: Any, elapsed: float, width: int, signs: Signs) -> Text:
    """Draw the bar and the counts; while nobody counts, a piece of the bar moves."""
    from rich.text import Text

    count = f"{view.done:,} of {view.items:,} rows"
    words = f"{_share(view.done, view.items)}  {count}" if view.done else count
    room = min(width - len(words) - 2, WIDEST_BAR)
    if room < NARROWEST_BAR:
        return Text(words[:width])
    if not view.done:
        begin, size = int(2 * elapsed) % room, max(room // 6, 1)
        cells = "".join(signs.full if (at - begin) % room < size else signs.empty for at in range(room))
        return Text.assemble((cells, "cyan"), f"  {words}")
    full = math.floor(room * view.done / view.items)
    return Text.assemble((signs.full * full, "green"), (signs.empty * (room - full), "dim"), f"  {words}")


def _share(done: int, items: int) -> str:
    return f"{100 * done // items}%"


def _parts(parts: Mapping[str, int]) -> str:
    """Say how many parts are where."""
    total = sum(parts.values())
    where = [(parts.get(state, 0), words) for state, words in STATES if parts.get(state, 0)]
    if total == 1:
        return f"one batch, {where[0][1]}"
    return f"{total:,} batches: {', '.join(f'{count:,} {words}' for count, words in where)}"


def _money(view: Any) -> list[str]:
    from standby.pricing.rates import dollars

    if view.spent_pico is None:
        return []
    found = [f"charged {dollars(view.spent_pico)}"] if view.spent_pico else []
    if view.predicted_pico is not None:
        low, high = view.predicted_pico
        found.append(f"predicted {dollars(low)} to {dollars(high)}")
    return found


def _since(moment: str | None, now: float) -> float | None:
    from datetime import datetime

    return None if not moment else now - datetime.fromisoformat(moment).timestamp()


def _so_far(seconds: float) -> str:
    return f"{_whole(max(0.0, seconds))} so far"


def _whole(seconds: float) -> str:
    from standby.workload.words import lasting

    return lasting(seconds) if seconds >= 10 else f"{seconds:.0f} s"


class Lines:
    """Progress where no terminal is: a line when something changed, at most one a minute."""

    def __init__(self, tempo: Tempo, clock: Callable[[], float], write: Callable[[str], None]) -> None:
        """Write lines with `write`."""
        self._tempo, self._clock, self._write = tempo, clock, write
        self._began = clock()
        self._last: object = None
        self._at = -math.inf

    def __call__(self, view: Any) -> None:
        """Take a view; write it if it says something new and a minute is over."""
        now = self._clock()
        self._tempo.add(now, view.done)
        said = (dict(view.parts), view.done, view.again, view.note)
        if said == self._last or now - self._at < EVERY_S:
            return
        self._last, self._at = said, now
        words = [f"{view.done:,} of {view.items:,} rows", *facts(view, self._tempo, now, now - self._began), view.note]
        self._write("; ".join(word for word in words if word))

    def now(self, doing: str) -> None:
        """Keep a log short: it begins with the first view."""


def _live(screen: Screen, console: Console) -> Live:
    """Draw a screen again and again, in place, and leave nothing behind."""
    import rich.live
    from rich.console import Group
    from rich.control import Control
    from rich.segment import ControlType

    class Steady(rich.live.Live):
        """Knows that a terminal which got narrower has wrapped the last picture, and wipes all of it."""

        _drawn: tuple[int, list[int]] = (0, [])

        def get_renderable(self) -> Group:
            width = self.console.size.width
            before, lengths = self._drawn
            drawn = screen.lines(width)
            self._drawn = (width, [line.cell_len for line in drawn])
            if 0 < width < before:
                extra = sum(max(-(-length // width), 1) - 1 for length in lengths)
                wiped = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * extra
                self.console.control(Control(*wiped))
            return Group(*drawn)

    return Steady(
        console=console,
        refresh_per_second=REFRESH_PER_S,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


@contextlib.contextmanager
def _above(console: Console) -> Iterator[None]:
    """Let what is written to standard error meanwhile appear above the lines that move, broken between words."""
    from rich.file_proxy import FileProxy

    class Above(FileProxy):
        """Click writes past a stream that does not tell its encoding, as Rich's own does not."""

        encoding = "utf-8"
        errors = "strict"

    before = sys.stderr
    above = Above(console, before)
    sys.stderr = cast("TextIO", above)
    try:
        yield
    finally:
        above.flush()
        sys.stderr = before
