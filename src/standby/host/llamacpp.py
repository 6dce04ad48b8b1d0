"""Serves a model with llama.cpp's own server out of the xllamacpp wheel.

It has no priorities: a gateway leaves a slot free for live work. Its listener is llama.cpp's own, on the
same unix socket or loopback port; this program only loads it and ends with its parent.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from standby.host.gguf import Header, NotGguf, read_header
from standby.host.serving import Options, say_ready

SLOTS = 4
STEP, STEP_GPU = 32, 256
"""Prompt tokens of one step, between two looks at the queue.

A step is as long as a new request waits before it is looked at, a cancel before it is heard, and every answer before it
goes on while a prompt is read. On 2 cores 32 tokens take 0.2 s (256: 1.4 s), and prompts take a fifth longer than with
256; a GPU reads fast enough to be given more at once.
"""
CACHE_RAM_MB = 64
BYTES_A_VALUE = 2
"""In llama.cpp's KV cache, unless it is told otherwise."""
QUIET = 1
"""llama.cpp logs every request by default."""
log = logging.getLogger("standby.host")


def serve_llamacpp(options: Options) -> None:
    """Load, say ready, serve until SIGTERM; raises `RuntimeError` if the model cannot be loaded."""
    import xllamacpp  # noqa: PLC0415 - heavy, optional

    began = time.perf_counter()
    try:
        header = read_header(options.model)
    except NotGguf as error:
        raise RuntimeError(str(error)) from None
    slots = options.slots or SLOTS
    context = min(options.context or header.context, header.context)
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.name or options.model.stem}
    params.hostnames = [options.uds or "127.0.0.1"]
    params.port = options.port
    params.n_parallel = slots
    params.kv_unified = not fits_apart(header, slots=slots, context=context, megabytes=options.kv_cache_mb)
    params.n_ctx = context if params.kv_unified else slots * context
    params.cache_idle_slots = False  # else a slot is emptied whenever work begins in another
    params.n_batch = params.n_ubatch = max(STEP_GPU if _has_gpu() else STEP, 2 * slots)  # every answer has a token
    params.cpuparams.n_threads = options.threads
    params.cache_ram_mib = CACHE_RAM_MB
    params.verbosity = QUIET
    params.endpoint_slots = params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    log.info("ready after %.1f s: %s, %d threads", time.perf_counter() - began, options.model.name, options.threads)
    port = 0 if options.uds else int(server.listening_address.rsplit(":", 1)[1])
    say_ready(options, port=port, slots=slots, context=context)
    while not stopped.wait(3600):
        pass
    os._exit(0)


def fits_apart(header: Header, *, slots: int, context: int, megabytes: int) -> bool:
    """Whether each slot may have a KV cache of its own, in which it finds its whole context.

    With one for all, a token looks at the cells of all slots: on two cores many answers at once then write no more than
    two do.
    """
    return slots * context * header.kv_values * BYTES_A_VALUE <= megabytes << 20


def _has_gpu() -> bool:
    """Whether this build of llama.cpp found one; it puts models there by itself."""
    import xllamacpp  # noqa: PLC0415

    kinds = xllamacpp.ggml_backend_dev_type
    gpus = {kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU}
    return any(device["type"] in gpus for device in xllamacpp.get_device_info())
