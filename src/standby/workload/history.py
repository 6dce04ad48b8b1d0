"""What earlier batches of this user took: one line a finished batch, in the state folder. No prompt, no answer.

It tells how long a batch is likely to take and how long answers of the same prompt are; nothing depends on it. A line
that cannot be read, or is of a newer program, is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import msgspec
import platformdirs

from standby.records import Tokens
from standby.workload.jobfile import JobFile, Part
from standby.workload.outcomes import read
from standby.workload.spec import Spec
from standby.workload.states import PartState

VERSION = 1
READ_BYTES = 1 << 20
"""Of the end of the file: some 4,000 batches."""
ALIKE = 4
"""Batches between a quarter and four times the size are taken as they were; others by their number of items."""
MOST = 50
"""So many of the latest are looked at."""


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that ended."""

    version: int = VERSION
    endpoint: str
    workspace: str = ""
    model: str
    prompt: str
    """Names the workload's prompt without telling it; empty for ready requests."""
    items: int
    answers: int
    """Items that came back with an answer; the sums below are theirs."""
    prompt_tokens: int
    read_tokens: int = 0
    written_tokens: int = 0
    output_tokens: int
    longest_answer: int
    seconds: float
    """From its create to its end."""
    ended_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How long answers of the same prompt were."""

    answers: int
    mean: float
    longest: int
    hits: Fraction | None
    """Share of cacheable tokens that were read and not written; None if there were none."""


def history_file() -> Path:
    """Name the file."""
    return Path(platformdirs.user_state_path("standby")) / "history.jsonl"


def remember(job: JobFile, *, file: Path | None = None) -> int:
    """Write down what finished batches of a job took, each once; return how many. A full disk stops no job."""
    told = set(json.loads(job.meta("told", "[]")))
    ended = [
        p for p in job.parts() if p.state is PartState.DONE and p.number not in told and p.created_at and p.ended_at
    ]
    if not ended:
        return 0
    try:
        _append(file or history_file(), [_past(job, part) for part in ended])
    except OSError:
        return 0
    job.note(told=json.dumps(sorted(told | {part.number for part in ended})))
    return len(ended)


def recalled(file: Path | None = None) -> Sequence[Past]:
    """Read the latest batches, oldest first; none if there is no file."""
    return list(_lines(file or history_file()))


def prompt_name(spec: Spec) -> str:
    """Name a prompt: equal for workloads that ask the same of other rows."""
    if not (spec.prompt or spec.attachments):
        return ""
    asked = [spec.system, spec.prompt, spec.attachments, spec.schema, spec.params]
    return hashlib.blake2b(msgspec.json.encode(asked, order="sorted"), digest_size=12).hexdigest()


def answers_of(past: Sequence[Past], *, model: str, prompt: str) -> Answers | None:
    """Say how long answers of a prompt were; None if it never ran."""
    found = [one for one in past if prompt and (one.prompt, one.model) == (prompt, model)][-MOST:]
    answers = sum(one.answers for one in found)
    if not answers:
        return None
    mean = sum(one.output_tokens for one in found) / answers
    read, written = sum(one.read_tokens for one in found), sum(one.written_tokens for one in found)
    hits = Fraction(read, read + written) if read + written else None
    return Answers(answers=answers, mean=mean, longest=max(one.longest_answer for one in found), hits=hits)


def expected_s(past: Sequence[Past], *, endpoint: str, model: str, batches: Sequence[int]) -> tuple[int, int] | None:
    """Say how many seconds batches of so many items will take, from shortest to longest; None without any like them.

    The low end takes them to run beside each other, the high end one after the other.
    """
    found = [one for one in past if (one.endpoint, one.model) == (endpoint, model) and one.items][-MOST:]
    if not found or not batches:
        return None
    spans = [_span(found, items) for items in batches]
    return int(max(low for low, _ in spans)), int(sum(high for _, high in spans)) + 1


def _span(found: Sequence[Past], items: int) -> tuple[float, float]:
    alike = [one.seconds for one in found if items <= ALIKE * one.items and one.items <= ALIKE * items]
    if alike:
        return min(alike), max(alike)
    nearest = min(found, key=lambda one: abs(one.items - items))
    scaled = nearest.seconds * items / nearest.items
    return min(nearest.seconds, scaled), max(nearest.seconds, scaled)


def _past(job: JobFile, part: Part) -> Past:
    answers, longest, tokens, model = 0, 0, Tokens(), job.spec.model
    for text, times in job.settled_usages(part.number):
        if not text:
            continue
        name, used = read(text)[-1]  # the last try is this part's
        one = used.tokens
        answers, longest, model = answers + times, max(longest, one.output), model or name
        tokens += Tokens(
            input=one.input * times,
            read=one.read * times,
            write_1h=(one.write_5m + one.write_1h) * times,
            output=one.output * times,
        )
    return Past(
        endpoint=job.meta("endpoint"),
        workspace=job.meta("workspace", ""),
        model=model,
        prompt=prompt_name(job.spec),
        items=part.items,
        answers=answers,
        prompt_tokens=tokens.input + tokens.read + tokens.write_1h,
        read_tokens=tokens.read,
        written_tokens=tokens.write_1h,
        output_tokens=tokens.output,
        longest_answer=longest,
        seconds=_seconds(str(part.created_at), str(part.ended_at)),
        ended_at=str(part.ended_at),
    )


def _seconds(begin: str, end: str) -> float:
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


def _append(file: Path, past: Sequence[Past]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, b"".join(msgspec.json.encode(one) + b"\n" for one in past))
    finally:
        os.close(fd)


def _lines(file: Path) -> Iterator[Past]:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - READ_BYTES))
            lines = opened.read().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            past = msgspec.json.decode(line, type=Past)
        except msgspec.DecodeError:
            continue
        if past.version == VERSION:
            yield past
