"""What a report says in sentences, the same in a terminal and on a page. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from standby.pricing.rates import dollars
from standby.workload.words import counted, lasting, off_by, pace, percent

ASSUMED = " (no batch price is published for this model; half of the standard one is taken)"

FEW = 100
"""Of fewer answers nobody asks what 99 in 100 have."""


def answered_words(report: dict[str, Any]) -> str:
    """Say how far a job is."""
    if not report["rows"]:
        return "No rows were read yet."
    if not any(part["batch_id"] for part in report["parts"]):
        return f"{counted(report['rows'], 'row')}, of which nothing was sent yet."
    state = "" if report["is_done"] else " so far"
    return f"{report['succeeded']:,} of {counted(report['rows'], 'row')} are answered{state}."


def cost_words(report: dict[str, Any]) -> Iterator[str]:
    """Say what batch and cache saved or lost, what was in vain, and how good the prediction was."""
    cost = report["cost"]
    if cost["charged_pico"] is None:
        yield "The cost is unknown: no price is known for this model."
        return
    assumed = ASSUMED if cost["is_batch_price_assumed"] else ""
    yield f"The batch saved {dollars(cost['saved_by_batch_pico'])}{assumed}."
    if report["cache"] is not None:
        yield _cache_words(report["cache"])
    if cost["without_good_answer_pico"]:
        yield f"{dollars(cost['without_good_answer_pico'])} of the charge went into answers that are no good."
    if cost["unpriced_answers"]:
        yield f"{counted(cost['unpriced_answers'], 'answer')} without a known price: not in these sums."
    yield from _predicted_words(report["predicted"])


def _cache_words(cache: dict[str, Any]) -> str:
    saved, hit, needed = cache["saved_pico"], percent(cache["hit_rate"]), cache["break_even"]
    if saved < 0:
        pays = "" if needed is None else f" It pays from {percent(needed)} on; leave it out until then."
        return f"The cache lost {dollars(-saved)}: {hit} of the marked tokens were read from it.{pays}"
    pays = "" if needed is None else f"; it pays from {percent(needed)} on"
    return f"The cache saved {dollars(saved)}: {hit} of the marked tokens were read from it{pays}."


def _predicted_words(predicted: dict[str, Any] | None) -> Iterator[str]:
    if predicted is None:
        return
    prompt, cost = predicted["prompt_tokens"], predicted["charged_pico"]
    if prompt["error"] is not None:
        place = "inside" if prompt["is_inside"] else "outside"
        yield f"Prompt tokens were predicted {off_by(prompt['error'])}, {place} the predicted interval."
    if cost is not None and cost["is_inside"] is not None:
        place = "inside" if cost["is_inside"] else "outside"
        error = "" if cost["error"] is None else f"; the likely cost was predicted {off_by(cost['error'])}"
        yield f"The charge lies {place} what was predicted, {dollars(cost['low'])} to {dollars(cost['high'])}{error}."


def length_words(told: dict[str, Any]) -> str:
    """Say how long answers are."""
    if told["least"] == told["most"]:
        return f"Each answer has {counted(told['most'], 'token')}."
    if told["answers"] < FEW:
        return f"Half of the answers have at most {told['p50']:,} tokens; the longest has {told['most']:,}."
    return (
        f"Half of the answers have at most {told['p50']:,} tokens, nine in ten at most {told['p90']:,}, "
        f"99 in 100 at most {told['p99']:,}; the longest has {told['most']:,}."
    )


def time_words(report: dict[str, Any]) -> Iterator[str]:
    """Say how long the service took, which part took longest, and what was tried again."""
    time = report["time"]
    if time["seconds"]:
        parts = {part["number"]: part for part in report["parts"] if part["seconds"] is not None}
        rate = f", {pace(time['items_per_s'])}" if time["items_per_s"] else ""
        yield f"The service took {lasting(time['seconds'])} for {counted(len(parts), 'batch', 'batches')}{rate}."
        slowest = [parts[number] for number in time["slowest_parts"][:1] if len(time["slowest_parts"]) > 1]
        for part in slowest:
            size = counted(part["items"], "row")
            yield f"The slowest was part {part['number']}: {size} in {lasting(part['seconds'])}."
    if report["canary"] is not None and report["canary"]["is_done"]:
        canary = report["canary"]
        yield f"A first part of {counted(canary['rows'], 'row')} went alone; {canary['succeeded']:,} were answered."
    again = report["rounds"][1:]
    if again:
        sent, good = sum(one["sent"] for one in again), sum(one["succeeded"] for one in again)
        then = "none of them was" if not good else "all of them were" if good == sent else f"{good:,} of them were"
        yield f"{counted(sent, 'row was', 'rows were')} sent again, and {then} answered then."
