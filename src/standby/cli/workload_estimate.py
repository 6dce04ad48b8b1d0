"""Before a workload is sent: a look at its models, an estimate with advice, and the budget that it is held to."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from standby.workload.estimate import Estimate
    from standby.workload.jobfile import JobFile
    from standby.workload.service import Service
    from standby.workload.survey import Survey

FORM = 2
"""Of what `--json` prints; it grows when a key changes its meaning."""


def bind(job: JobFile, service: Service, given: dict[str, Any]) -> None:
    """Look before the first part is sent, estimate, and hold the job to its budget; all words go to standard error.

    One that was estimated before keeps that estimate. Without --max-cost nothing that cannot be found out stops a job.
    """
    from standby.pricing.rates import DOLLAR
    from standby.workload import steps
    from standby.workload.estimate import noted
    from standby.workload.states import PartState

    is_begun = any(part.state is not PartState.READY or part.round for part in job.parts())
    made = noted(job) if is_begun else _look(job, service, given)
    if given["max_cost"] is not None:
        budget = int(given["max_cost"] * DOLLAR)
        if job.meta("worst_pico", ""):
            job.note(budget_pico=str(budget))
        else:
            made = made or _estimate(job, service)
            if made is not None:
                steps.bind_budget(job, made, budget)


def show_job(job: JobFile, service: Service, *, as_json: bool) -> None:
    """Look at the models of a job, estimate it, and print all that was found."""
    from standby.workload.estimate import estimate
    from standby.workload.preflight import check_lengths, preflight
    from standby.workload.steps import prices_of
    from standby.workload.survey import survey

    found = survey(job)
    looked = preflight(found, service)
    made = estimate(job, service, prices_of(job), found=found)
    show_estimate(made, warnings=(*looked.warnings, *check_lengths(looked, made.longest_prompts)), as_json=as_json)


def show_estimate(found: Estimate, *, warnings: Sequence[str] = (), as_json: bool) -> None:
    """Print an estimate, as a table or as JSON."""
    if as_json:
        told = {"schema": FORM, **dataclasses.asdict(found), "warnings": list(warnings)}
        click.echo(json.dumps(told, indent=2))
        return
    low, high = found.prompt_tokens_span
    click.echo(f"{found.rows:,} rows, {found.sampled:,} of them counted: {low:,} to {high:,} prompt tokens")
    if found.expected_output_tokens is None:
        click.echo(f"Answers: unknown before, at most {found.most_output_tokens:,} tokens")
    else:
        likely, most = found.expected_output_tokens, found.most_output_tokens
        click.echo(f"Answers: {likely:,} tokens if they are like earlier ones, at most {most:,}")
    click.echo(f"Time: {_time(found.expected_s)}")
    _show_costs(found)
    for words in _told(found, warnings):
        click.echo(words)


def _look(job: JobFile, service: Service, given: dict[str, Any]) -> Estimate | None:
    """Check the models, and count prompts unless that was done or is not wanted; return an estimate that was made."""
    from standby.workload.estimate import noted
    from standby.workload.preflight import check_lengths, preflight
    from standby.workload.survey import survey

    found = survey(job)
    looked = preflight(found, service)
    made, is_held = noted(job), given["max_cost"] is not None
    if made is None and (is_held or (looked.is_reached and not given.get("no_estimate"))):
        made = _estimate(job, service, found, is_needed=is_held)
    warnings = [*looked.warnings, *(check_lengths(looked, made.longest_prompts) if made else ())]
    for line in (*_brief(made), *_told(made, warnings)):
        click.echo(line, err=True)
    return made


def _estimate(
    job: JobFile, service: Service, found: Survey | None = None, *, is_needed: bool = True
) -> Estimate | None:
    """Estimate a job; where nobody needs it, what keeps it from being made is told and no more."""
    from standby.workload.estimate import estimate
    from standby.workload.faults import WorkloadError
    from standby.workload.steps import prices_of

    try:
        return estimate(job, service, prices_of(job), found=found)
    except WorkloadError as error:
        if is_needed:
            raise
        click.echo(f"No estimate: {error}", err=True)
        return None


def _show_costs(found: Estimate) -> None:
    from standby.cli.tables import show
    from standby.pricing.rates import dollars

    rows = [("in real time", found.standard_pico), ("in a batch", found.batch_pico)]
    rows.append(("in a batch with a cache", found.cached_pico))
    shown = [(name, dollars(span[0]), dollars(span[1])) for name, span in rows if span is not None]
    if shown:
        show(("cost", "without answers", "longest answers"), shown)
    if found.expected_pico is not None:
        click.echo(f"With answers like earlier ones, as it is asked for: {dollars(found.expected_pico)}")
    if found.cached_pico and found.break_even is not None:
        click.echo(f"A cache pays from {found.break_even:.0%} hits on; in batches 30 to 98% are usual.")


def _brief(made: Estimate | None) -> Iterator[str]:
    """Say what a job is about to cost, in one line."""
    from standby.pricing.rates import dollars

    if made is None:
        return
    line = f"{made.rows:,} rows, about {made.prompt_tokens:,} prompt tokens"
    if made.asked_pico is not None and made.standard_pico is not None:
        low, high = made.asked_pico
        line += f": {dollars(low)} without answers, at most {dollars(high)}"
        line += f" ({dollars(made.standard_pico[0])} and {dollars(made.standard_pico[1])} in real time)"
    if made.expected_pico is not None:
        line += f", {dollars(made.expected_pico)} if answers are like earlier ones"
    yield line
    if made.expected_s is not None:
        yield f"Time: {_time(made.expected_s)}"


def _told(made: Estimate | None, warnings: Sequence[str]) -> Iterator[str]:
    for text in warnings:
        yield f"Warning: {text}."
    for text in made.unknown if made else ():
        yield f"Not known: {text}."
    for one in made.advice if made else ():
        yield f"Advice: {one.text}."


def _time(span: tuple[int, int] | None) -> str:
    """Say how long it will take."""
    if span is None:
        return "unknown, no batch of this model ran here before"
    low, high = (_seconds(one) for one in span)
    return f"{low} to {high}, by earlier batches of this model" if low != high else f"{low}, by earlier batches"


def _seconds(seconds: int) -> str:
    if seconds < 100:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
