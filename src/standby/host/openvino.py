"""Serves a model with OpenVINO and our step loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from standby.host.app import build_app
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
    prefill, decode = warm_up(pipeline)
    log.info(
        "ready after %.1f s: %s, %d threads, %d slots, %d tokens of KV cache, context %d, "
        "reads %.0f tokens/s, writes %.0f tokens/s alone",
        *(time.perf_counter() - began, options.model.name, options.threads, slots),
        *(pipeline.blocks * BLOCK, pipeline.context, prefill, decode),
    )
    asyncio.run(_serve(options, pipeline, slots))


async def _serve(options: Options, pipeline: Pipeline, slots: int) -> None:
    metrics = Metrics()
    loop = StepLoop(pipeline, metrics, slots=slots, block=BLOCK)
    name = options.name or options.model.stem
    app = build_app(name=name, prompter=pipeline, loop=loop, metrics=metrics, slots=slots)
    listener = listen(options)
    stepping = asyncio.ensure_future(loop.run())
    stepping.add_done_callback(_end_if_stuck)
    port = 0 if options.uds else listener.getsockname()[1]
    say_ready(options, port=port, slots=slots, context=pipeline.context)
    await serve_app(app, listener)
    os._exit(0)


def _end_if_stuck(stepping: asyncio.Task[None]) -> None:
    if not stepping.cancelled() and stepping.exception() is not None:
        log.error("the step loop failed: %s", type(stepping.exception()).__name__, exc_info=stepping.exception())
        os._exit(STUCK)


def warm_up(pipeline: Pipeline) -> tuple[float, float]:
    """Let the library compile its kernels, and measure: prompt tokens a second, answer tokens a second alone."""
    pipeline.check_block()
    _timed(pipeline, 200, 1, first=1)
    prefill = 200 / _timed(pipeline, 200, 1, first=300)
    decode = 8 / _timed(pipeline, 1, 8, first=600)
    return prefill, decode


def _timed(pipeline: Pipeline, prompt: int, limit: int, *, first: int) -> float:
    tokens = [first + number for number in range(prompt)]
    sampling = Sampling(temperature=0, ignore_eos=True)
    handle = pipeline.add(tokens, limit=limit, sampling=sampling, grammar=None, kept=0)
    began = time.perf_counter()
    while pipeline.busy():
        pipeline.step()
    pipeline.read(handle)
    return time.perf_counter() - began
