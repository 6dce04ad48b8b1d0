"""A client of a chat engine, in a process of its own: `python -m bench.chat_client bare|adapter URL WINDOW ITEMS SEED`.

It prints a line: seconds, its own processor seconds, tokens generated. The bare client is what a program would be that
knows its engine and does nothing more than it must: the same requests, streamed, counted. The adapter is Standby's.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import uvloop

from standby.config import EngineSettings
from standby.engines.chat import Chat
from standby.records import Rules
from standby.wire.chat.dialect import HOST
from standby.wire.chat.request import chat_body
from standby.wire.messages import MessageParams, decode_params

OUTPUT = 48
TOPICS = ("the sea", "a railway", "an old house", "winter", "a market", "the night sky", "a long road", "bread")

Answer = Callable[[MessageParams], Awaitable[int]]
"""Answers one request and returns how many tokens that took."""


def item_params(number: int, *, seed: int) -> dict[str, object]:
    """Return a request with a prompt of its own from its first words on, and an answer of `OUTPUT` tokens."""
    chosen = random.Random(seed * 1_000_003 + number)  # noqa: S311 - a prompt, no secret
    words = " ".join(str(chosen.randrange(100, 1000)) for _ in range(12))
    topic = TOPICS[number % len(TOPICS)]
    text = f"{words}. Write a very long story about {topic}, with many people in it. Begin at once."
    return {"model": "claude-bench", "max_tokens": OUTPUT, "messages": [{"role": "user", "content": text}]}


def main(side: str, url: str, window: int, items: int, seed: int) -> None:
    """Run one side."""
    bodies = [msgspec.json.encode(item_params(number, seed=seed)) for number in range(items)]
    params = [decode_params(body, rules=Rules(), batch=True) for body in bodies]
    print(*uvloop.run(_run(side, url, window, params)))


async def _run(side: str, url: str, window: int, params: list[MessageParams]) -> tuple[float, float, int]:
    async with AsyncExitStack() as stack:
        answer = await (_bare if side == "bare" else _adapter)(url, stack)
        start, cpu = time.perf_counter(), _cpu_s()
        queue = iter(params)
        counts = await asyncio.gather(*(_work(queue, answer) for _ in range(window)))
        return time.perf_counter() - start, _cpu_s() - cpu, sum(counts)


async def _work(queue: Iterator[MessageParams], answer: Answer) -> int:
    return sum([await answer(params) for params in queue])


async def _adapter(url: str, stack: AsyncExitStack) -> Answer:
    engine = Chat(EngineSettings(), base_url=url)
    stack.push_async_callback(engine.close)
    await engine.start()
    await engine.resolve("claude-bench")

    async def answer(params: MessageParams) -> int:
        return (await engine.generate(params)).usage.output_tokens

    return answer


async def _bare(url: str, stack: AsyncExitStack) -> Answer:
    connector = aiohttp.TCPConnector(limit=0)
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    async with session.get(f"{url}/v1/models") as listed:
        model = (await listed.json())["data"][0]["id"]

    async def answer(params: MessageParams) -> int:
        body = msgspec.json.encode(chat_body(params, model=model, dialect=HOST, live=False))
        headers = {"content-type": "application/json"}
        text, tokens = "", 0
        async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    chunk = msgspec.json.decode(line[6:])
                    text += chunk["choices"][0]["delta"].get("content") or "" if chunk["choices"] else ""
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        assert text, "the engine said nothing"
        return tokens

    return answer


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:6]))
