"""One summary an account, through the official SDK. Nothing here is special to Standby: copy what you need."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import MessageParam
    from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
    from anthropic.types.messages.batch_create_params import Request

Row = dict[str, str]

ACCOUNTS = Path(__file__).with_name("accounts.csv")
SYSTEM = "You write the account's week for the morning report."
EXAMPLES: list[Row] = [
    {
        "account": "Example Mills",
        "change": "rose from 9 to 12 people",
        "most_used": "forms",
        "note": "A second shift was added.",
    },
    {
        "account": "Sample Bank",
        "change": "fell from 44 to 30 people",
        "most_used": "exports",
        "note": "The head office asked for a training day.",
    },
    {
        "account": "Model Trains",
        "change": "stayed at 7 people",
        "most_used": "comments",
        "note": "Visitors ask for a new workshop.",
    },
]
"""Three invented accounts; a very small model writes well only after examples. They are a shared prompt prefix."""


class Answer(NamedTuple):
    """What came back for one account: a text or a reason, and what it took."""

    text: str
    error: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def read_accounts(file: Path = ACCOUNTS) -> list[Row]:
    """Read the week's activity, one row an account."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def to_request(row: Row, model: str) -> Request:
    """Turn a row into one request of the batch; `custom_id` leads back from the answer to the row."""
    return {
        "custom_id": row["id"],
        "params": {
            "model": model,
            "max_tokens": 60,
            "cache_control": {"type": "ephemeral"},
            "system": SYSTEM,
            "messages": [*examples(), {"role": "user", "content": describe(row, change(row))}],
        },
    }


def examples() -> list[MessageParam]:
    """Show the model how it is done."""
    turns: list[MessageParam] = []
    for row in EXAMPLES:
        answer = f"At {row['account']} use {row['change']}, mostly for {row['most_used']}. {row['note']}"
        turns += [
            {"role": "user", "content": describe(row, row["change"])},
            {"role": "assistant", "content": answer},
        ]
    return turns


def describe(row: Row, change: str) -> str:
    """Write a row as the model shall read it."""
    return f"Account: {row['account']}\nUse: {change}\nMost used: {row['most_used']}\nNote: {row['note']}"


def change(row: Row) -> str:
    """Say how many people were active, and last week."""
    now, before = int(row["active"]), int(row["active_last_week"])
    if now == before:
        return f"stayed at {now} people"
    return f"{'rose' if now > before else 'fell'} from {before} to {now} people"


def submit(client: Anthropic, requests: list[Request]) -> MessageBatch:
    """Create the batch; when this returns, it survives a power cut."""
    return client.messages.batches.create(requests=requests)


def wait(
    client: Anthropic, batch: MessageBatch, on_progress: Callable[[MessageBatch], None], *, every_s: float = 0.5
) -> MessageBatch:
    """Poll until every request has its result."""
    while batch.processing_status != "ended":
        time.sleep(every_s)
        batch = client.messages.batches.retrieve(batch.id)
        on_progress(batch)
    return batch


def answers(client: Anthropic, batch: MessageBatch) -> Iterator[tuple[str, Answer]]:
    """Stream the results, in any order: each with the `custom_id` of its request."""
    for line in client.messages.batches.results(batch.id):
        yield line.custom_id, to_answer(line)


def to_answer(line: MessageBatchIndividualResponse) -> Answer:
    """Take the text of a success, or the reason of anything else."""
    result = line.result
    if result.type == "succeeded":
        text = "".join(block.text for block in result.message.content if block.type == "text")
        usage = result.message.usage
        cached = usage.cache_read_input_tokens or 0
        prompt = usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0)
        return Answer(" ".join(text.split()), "", prompt, cached, usage.output_tokens)
    if result.type == "errored":
        reason = result.error.error
        return Answer("", f"{reason.type}: {reason.message}", 0, 0, 0)
    return Answer("", result.type, 0, 0, 0)


def ask_live(client: Anthropic, model: str) -> tuple[str, float]:
    """Ask one question in real time, while the batch runs; return the answer and its seconds."""
    start = time.perf_counter()
    message = client.messages.create(
        model=model,
        max_tokens=24,
        messages=[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    )
    text = "".join(block.text for block in message.content if block.type == "text")
    return " ".join(text.split()), time.perf_counter() - start
