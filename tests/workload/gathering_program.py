"""A program that asks many questions at once: what a test runs, kills and runs again."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection

from standby import workload
from standby.workload import Pace

CALLS = 200


def main(url: str, folder: str, told: Connection) -> None:
    """Ask, and tell first that it began and then how many answers came."""
    told.send("begun")
    told.send(asyncio.run(program(url, folder)))


async def program(url: str, folder: str) -> int:
    """Ask as a program does that was written for `anthropic.AsyncAnthropic`; each question twice."""
    pace = Pace(first_poll_s=0.05, settle_s=0.3, look_s=0.05, queue_s=0.05, patience_s=30.0)
    async with workload.AsyncBatches(
        base_url=url, api_key="any", window=0.02, max_items=40, folder=folder, pace=pace
    ) as client:
        answers = await asyncio.gather(
            *(
                client.messages.create(
                    model="claude-haiku-4-5",
                    max_tokens=20,
                    messages=[{"role": "user", "content": f"question {number // 2}"}],
                )
                for number in range(CALLS)
            )
        )
    return len({answer.id for answer in answers})
