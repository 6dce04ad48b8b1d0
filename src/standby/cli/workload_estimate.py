"""What a workload will cost, on the terminal, and the budget that a job is held to."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from standby.workload.jobfile import JobFile
    from standby.workload.service import Service


def bind(job: JobFile, service: Service, given: dict[str, Any]) -> None:
    """Hold a job to its budget; one that was estimated before keeps that estimate."""
    from standby.pricing.rates import DOLLAR
    from standby.workload import steps

    if given["max_cost"] is not None:
        budget = int(given["max_cost"] * DOLLAR)
        if job.meta("worst_pico", ""):
            job.note(budget_pico=str(budget))
        else:
            steps.bind_budget(job, steps.estimate_job(job, service), budget)


def show_estimate(found: Any, *, as_json: bool) -> None:
    """Print an estimate, as a table or as JSON."""
    from standby.cli.tables import show
    from standby.pricing.rates import dollars

    if as_json:
        click.echo(json.dumps({"schema": 1, **dataclasses.asdict(found)}, indent=2))
        return
    low, high = found.prompt_tokens_span
    click.echo(f"{found.rows:,} rows, {found.sampled:,} of them counted: {low:,} to {high:,} prompt tokens")
    click.echo(f"Answers: unknown before, at most {found.most_output_tokens:,} tokens")
    rows = [("in real time", found.standard_pico), ("in a batch", found.batch_pico)]
    rows += [("in a batch, system prompt cached 1h", found.cached_pico)] if found.cached_pico else []
    if found.batch_pico is None:
        click.echo(f"cost: unknown, no price is known for {found.model}")
        return
    shown = [(name, dollars(span[0]), dollars(span[1])) for name, span in rows]
    show(("", "without answers", "longest answers"), shown)
    if found.cached_pico and found.break_even is not None:
        click.echo(f"The cache pays from {found.break_even:.0%} hits on; in batches 30 to 98% are usual.")
