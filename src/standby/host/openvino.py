"""Serves a model with OpenVINO and our step loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from standby.host.app import Facts, build_app
from standby.host.ask import Sampling
from standby.host.gguf import NotGguf, read_header
from standby.host.loop import StepLoop
from standby.host.metrics import Metrics
from standby.host.pipeline import BLOCK, Pipeline
from standby.host.serving import Options, listen, say_ready, serve_app

SLOTS = 32
STUCK = 70
"""Exit code after the library raised in a step: it cannot go on (EX_SOFTWARE)."""
log = logging.getLogger("standby.host")


def serve_openvino(options: Options) -> None:
    """Load, measure, say ready, serve; raises `RuntimeError` or `OSError` if the model cannot be loaded."""
    began = time.perf_counter()
    slots = options.slots or SLOTS
    try:
        header = read_header(options.model)
    except NotGguf as error:
        raise RuntimeError(str(error)) from None
    pipeline = Pipeline(
        options.model,
        header,
        threads=options.threads,
        kv_cache_mb=options.kv_cache_mb,
        slots=slots,
        context=options.context,
    )
    pipeline.check_block()
    prefill, decode = measure(pipeline) if options.measure else (None, None)
    facts = Facts(
        name=options.name or options.model.stem,
        slots=slots,
        threads=options.threads,
        kv_tokens=pipeline.blocks * BLOCK,
        prefill_tokens_s=prefill,
        decode_tokens_s=decode,
    )
    log.info(
        "ready after %.1f s: %s, %d threads, %d slots, %d tokens of KV cache, context %d, %s",
        *(time.perf_counter() - began, options.model.name, options.threads, slots, facts.kv_tokens, pipeline.context),
        f"reads {prefill:.0f} tokens/s, writes {decode:.0f} tokens/s alone" if prefill else "not measured",
    )
    asyncio.run(_serve(options, pipeline, facts))


async def _serve(options: Options, pipeline: Pipeline, facts: Facts) -> None:
    metrics = Metrics()
    metrics.measured(facts.prefill_tokens_s, facts.decode_tokens_s)
    loop = StepLoop(pipeline, metrics, slots=facts.slots, block=BLOCK, reads_s=facts.prefill_tokens_s)
    app = build_app(facts, prompter=pipeline, loop=loop, metrics=metrics)
    listener = listen(options)
    stepping = asyncio.ensure_future(loop.run())
    stepping.add_done_callback(_end_if_stuck)
    port = 0 if options.uds else listener.getsockname()[1]
    say_ready(options, port=port, slots=facts.slots, context=pipeline.context)
    await serve_app(app, listener)
    os._exit(0)


def _end_if_stuck(stepping: asyncio.Task[None]) -> None:
    if not stepping.cancelled() and stepping.exception() is not None:
        log.error("the step loop failed: %s", type(stepping.exception()).__name__, exc_info=stepping.exception())
        os._exit(STUCK)


def measure(pipeline: Pipeline) -> tuple[float, float]:
    """Return prompt tokens a second, and answer tokens a second alone; well under a second on two cores."""
    _timed(pipeline, 200, 1, first=1)  # the library compiles its kernels
    prefill = 200 / _timed(pipeline, 200, 1, first=300)
    decode = 8 / _timed(pipeline, 1, 8, first=600)
    return round(prefill, 1), round(decode, 1)


def _timed(pipeline: Pipeline, prompt: int, limit: int, *, first: int) -> float:
    tokens = [first + number for number in range(prompt)]
    sampling = Sampling(temperature=0, ignore_eos=True)
    handle = pipeline.add(tokens, limit=limit, sampling=sampling, grammar=None, kept=0)
    began = time.perf_counter()
    while pipeline.busy():
        pipeline.step()
    pipeline.read(handle)
    return time.perf_counter() - began
