"""The catalogue of Claude's models, as data: what the emulator plays, and what a request to each of them may ask.

Sources: the types of SDK 2.12.0 for names and retirements; for the rest the documentation's pages of models, thinking,
effort, prompt caching and batches; all as of `CHECKED`. What these do not say is taken over from the nearest model of
the same generation, and marked with "presumed".
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Literal

from standby.records import SECOND

Lifecycle = Literal["active", "deprecated", "retired"]
CHECKED = dt.date(2026, 11, 22)
DEFAULT_MINIMUM = 1_024
"""Least cacheable tokens of a model that is not in the catalogue."""

_FEATURES = frozenset({"citations", "image_input", "pdf_input", "structured_outputs", "thinking"})
_BEFORE_FORMATS = _FEATURES - {"structured_outputs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claude:
    """One model."""

    id: str
    display_name: str
    line: Literal["haiku", "sonnet", "opus", "fable", "mythos"]
    released: dt.date
    aliases: tuple[str, ...] = ()
    retires: dt.date | None = None
    """Known only of models that are deprecated or retired."""
    max_input_tokens: int = 1_000_000
    max_output_tokens: int = 128_000
    max_batch_tokens: int = 300_000
    """Output tokens in a batch with the beta `output-300k-2026-03-24`."""
    minimum: int = 512
    """Least tokens of a cacheable prefix (contract 9.1, rule 9)."""
    thinking: frozenset[str] = frozenset({"adaptive"})
    """The values of `thinking.type` that it takes."""
    thinks: str = "adaptive"
    """What leaving `thinking` out means."""
    effort: str = "high"
    """What leaving `output_config.effort` out means; empty: it takes none."""
    prefill: bool = False
    """Whether `messages` may end with an assistant's turn."""
    sampling: bool = False
    """Whether it takes `temperature`, `top_p` and `top_k` other than their defaults."""
    forced_tools: bool = True
    """Whether it takes `tool_choice` of type `any` and `tool`."""
    features: frozenset[str] = _FEATURES
    """Out of `wire.models.FEATURES`."""

    @property
    def created_us(self) -> int:
        """The start of the day on which it was released."""
        return _start_us(self.released)

    @property
    def retires_us(self) -> int | None:
        """The start of the day on which it retires, if that is known."""
        return None if self.retires is None else _start_us(self.retires)

    def lifecycle(self, day: dt.date) -> Lifecycle:
        """Say where it stands on a day: a model whose retirement is announced is deprecated until then."""
        if self.retires is None:
            return "active"
        return "retired" if day >= self.retires else "deprecated"


def _start_us(day: dt.date) -> int:
    return int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()) * SECOND


_OFF = frozenset({"adaptive", "disabled"})
_BOTH = frozenset({"adaptive", "enabled", "disabled"})
_MANUAL = frozenset({"enabled", "disabled"})

CATALOGUE = (
    Claude(
        id="claude-fable-5-2",
        display_name="Claude Fable 5.2",
        line="fable",
        released=dt.date(2026, 11, 9),
        max_batch_tokens=128_000,
        forced_tools=False,  # presumed, as Fable 5.1
    ),
    Claude(
        id="claude-mythos-5-2",
        display_name="Claude Mythos 5.2",
        line="mythos",
        released=dt.date(2026, 11, 9),
        max_batch_tokens=128_000,
        forced_tools=False,  # presumed, as Mythos 5.1
    ),
    Claude(
        id="claude-haiku-5-5",
        display_name="Claude Haiku 5.5",
        line="haiku",
        released=dt.date(2026, 10, 7),
        thinking=_OFF,
        effort="medium",
    ),
    Claude(
        id="claude-sonnet-5-5",
        display_name="Claude Sonnet 5.5",
        line="sonnet",
        released=dt.date(2026, 10, 1),  # presumed: between Opus 5.5 and Haiku 5.5
        thinking=frozenset({"adaptive", "between_tools"}),
        forced_tools=False,
    ),
    Claude(
        id="claude-opus-5-5",
        display_name="Claude Opus 5.5",
        line="opus",
        released=dt.date(2026, 9, 22),  # presumed: the first notes of others that name it are of the day after
        effort="medium",
        forced_tools=False,
    ),
    Claude(
        id="claude-fable-5-1",
        display_name="Claude Fable 5.1",
        line="fable",
        released=dt.date(2026, 9, 1),
        max_batch_tokens=128_000,
        forced_tools=False,
    ),
    Claude(
        id="claude-mythos-5-1",
        display_name="Claude Mythos 5.1",
        line="mythos",
        released=dt.date(2026, 9, 1),
        max_batch_tokens=128_000,
        forced_tools=False,
    ),
    Claude(
        id="claude-opus-5",
        display_name="Claude Opus 5",
        line="opus",
        released=dt.date(2026, 7, 24),
        thinking=_OFF,
    ),
    Claude(
        id="claude-sonnet-5",
        display_name="Claude Sonnet 5",
        line="sonnet",
        released=dt.date(2026, 6, 30),
        minimum=1_024,
        thinking=_OFF,
    ),
    Claude(
        id="claude-fable-5",
        display_name="Claude Fable 5",
        line="fable",
        released=dt.date(2026, 6, 9),
        max_batch_tokens=128_000,
    ),
    Claude(
        id="claude-mythos-5",
        display_name="Claude Mythos 5",
        line="mythos",
        released=dt.date(2026, 6, 9),
        max_batch_tokens=128_000,
    ),
    Claude(
        id="claude-opus-4-8",
        display_name="Claude Opus 4.8",
        line="opus",
        released=dt.date(2026, 5, 28),
        minimum=1_024,
        thinking=_OFF,
        thinks="disabled",
    ),
    Claude(
        id="claude-opus-4-7",
        display_name="Claude Opus 4.7",
        line="opus",
        released=dt.date(2026, 4, 16),
        minimum=2_048,
        thinking=_OFF,
        thinks="disabled",
    ),
    Claude(
        id="claude-mythos-preview",
        display_name="Claude Mythos Preview",
        line="mythos",
        released=dt.date(2026, 4, 7),
        retires=dt.date(2026, 6, 30),
        max_batch_tokens=128_000,
        minimum=2_048,
        thinking=frozenset({"adaptive", "enabled"}),
    ),
    Claude(
        id="claude-sonnet-4-6",
        display_name="Claude Sonnet 4.6",
        line="sonnet",
        released=dt.date(2026, 2, 17),
        minimum=1_024,
        thinking=_BOTH,
        thinks="disabled",
        sampling=True,
    ),
    Claude(
        id="claude-opus-4-6",
        display_name="Claude Opus 4.6",
        line="opus",
        released=dt.date(2026, 2, 5),
        minimum=4_096,
        thinking=_BOTH,
        thinks="disabled",
        sampling=True,
    ),
    Claude(
        id="claude-opus-4-5-20251101",
        display_name="Claude Opus 4.5",
        line="opus",
        released=dt.date(2025, 11, 24),
        aliases=("claude-opus-4-5",),
        max_input_tokens=200_000,
        max_output_tokens=64_000,
        max_batch_tokens=64_000,
        minimum=4_096,
        thinking=_MANUAL,
        thinks="disabled",
        prefill=True,
        sampling=True,
    ),
    Claude(
        id="claude-haiku-4-5-20251001",
        display_name="Claude Haiku 4.5",
        line="haiku",
        released=dt.date(2025, 10, 15),
        aliases=("claude-haiku-4-5",),
        max_input_tokens=200_000,
        max_output_tokens=64_000,
        max_batch_tokens=64_000,
        minimum=4_096,
        thinking=_MANUAL,
        thinks="disabled",
        effort="",
        prefill=True,
        sampling=True,
    ),
    Claude(
        id="claude-sonnet-4-5-20250929",
        display_name="Claude Sonnet 4.5",
        line="sonnet",
        released=dt.date(2025, 9, 29),
        aliases=("claude-sonnet-4-5",),
        retires=dt.date(2026, 11, 30),
        max_input_tokens=200_000,
        max_output_tokens=64_000,
        max_batch_tokens=64_000,
        minimum=1_024,
        thinking=_MANUAL,
        thinks="disabled",
        effort="",
        prefill=True,
        sampling=True,
    ),
    Claude(
        id="claude-opus-4-1-20250805",
        display_name="Claude Opus 4.1",
        line="opus",
        released=dt.date(2025, 8, 5),
        aliases=("claude-opus-4-1",),
        retires=dt.date(2026, 8, 5),
        max_input_tokens=200_000,
        max_output_tokens=32_000,
        max_batch_tokens=32_000,
        minimum=1_024,
        thinking=_MANUAL,
        thinks="disabled",
        effort="",
        prefill=True,
        sampling=True,
    ),
    Claude(
        id="claude-opus-4-20250514",
        display_name="Claude Opus 4",
        line="opus",
        released=dt.date(2025, 5, 22),
        aliases=("claude-opus-4-0",),
        retires=dt.date(2026, 6, 15),
        max_input_tokens=200_000,
        max_output_tokens=32_000,
        max_batch_tokens=32_000,
        minimum=1_024,
        thinking=_MANUAL,
        thinks="disabled",
        effort="",
        prefill=True,
        sampling=True,
        features=_BEFORE_FORMATS,
    ),
    Claude(
        id="claude-sonnet-4-20250514",
        display_name="Claude Sonnet 4",
        line="sonnet",
        released=dt.date(2025, 5, 22),
        aliases=("claude-sonnet-4-0",),
        retires=dt.date(2026, 6, 15),
        max_input_tokens=200_000,
        max_output_tokens=64_000,
        max_batch_tokens=64_000,
        minimum=1_024,
        thinking=_MANUAL,
        thinks="disabled",
        effort="",
        prefill=True,
        sampling=True,
        features=_BEFORE_FORMATS,
    ),
    Claude(
        id="claude-3-7-sonnet-20250219",
        display_name="Claude Sonnet 3.7",
        line="sonnet",
        released=dt.date(2025, 2, 19),
        aliases=("claude-3-7-sonnet-latest",),
        retires=dt.date(2026, 2, 19),
        max_input_tokens=200_000,
        max_output_tokens=64_000,
        max_batch_tokens=64_000,
        minimum=1_024,  # presumed, as Sonnet 4
        thinking=_MANUAL,
        thinks="disabled",
        effort="",
        prefill=True,
        sampling=True,
        features=_BEFORE_FORMATS,
    ),
    Claude(
        id="claude-3-5-haiku-20241022",
        display_name="Claude Haiku 3.5",
        line="haiku",
        released=dt.date(2024, 10, 22),
        aliases=("claude-3-5-haiku-latest",),
        retires=dt.date(2026, 2, 19),
        max_input_tokens=200_000,
        max_output_tokens=8_192,
        max_batch_tokens=8_192,
        minimum=2_048,
        thinking=frozenset({"disabled"}),
        thinks="disabled",
        effort="",
        prefill=True,
        sampling=True,
        features=_BEFORE_FORMATS - {"thinking"},
    ),
)
"""Newest first."""

_BY_NAME = {name: claude for claude in CATALOGUE for name in (claude.id, *claude.aliases)}
_DATED = re.compile(r"(claude-.+)-\d{8}")


def find(name: str) -> Claude | None:
    """Return the model of a name or an alias; a date behind a name that has none of its own is not looked at."""
    found = _BY_NAME.get(name)
    if found is None and (match := _DATED.fullmatch(name)) is not None:
        undated = _BY_NAME.get(match[1])
        found = undated if undated is not None and undated.id == match[1] else None
    return found


def served(day: dt.date) -> list[Claude]:
    """List the models that are not retired on a day, newest first."""
    return [claude for claude in CATALOGUE if claude.lifecycle(day) != "retired"]
