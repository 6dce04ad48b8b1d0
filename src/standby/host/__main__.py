"""`python -m standby.host`: load a model, say that it is ready, answer until the parent is gone."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from standby.host.llamacpp import serve_llamacpp
from standby.host.openvino import serve_openvino
from standby.host.parent import die_with_parent, free_cores
from standby.host.serving import Options


def main(arguments: list[str] | None = None) -> None:
    """Read the flags and serve; the exit code is 0 after a stop, 1 if the model cannot be loaded."""
    options = read_options(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    die_with_parent(watch_stdin=options.watch_stdin)
    try:
        (serve_llamacpp if options.backend == "llamacpp" else serve_openvino)(options)
    except (OSError, RuntimeError, ImportError) as error:
        print(f"ERROR cannot serve {options.model.name}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)


def read_options(arguments: list[str] | None) -> Options:
    """Turn the command line into options."""
    parser = argparse.ArgumentParser(prog="python -m standby.host", description=__doc__)
    parser.add_argument("--backend", choices=("openvino", "llamacpp"), default="openvino")
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--name", default="", help="name of the model; empty takes the file's")
    parser.add_argument("--uds", default="", help="unix socket to listen on")
    parser.add_argument("--port", type=int, default=0, help="loopback port, if there is no --uds; 0 takes a free one")
    parser.add_argument("--threads", type=int, default=0, help="0 takes the cores that this process may use")
    parser.add_argument("--kv-cache-mb", type=int, default=512)
    parser.add_argument("--slots", type=int, default=0, help="sequences at once; 0 takes the backend's default")
    parser.add_argument("--context", type=int, default=0, help="0 takes the model's")
    parser.add_argument("--watch-stdin", action="store_true", help="exit when stdin ends: the parent is gone")
    parser.add_argument("--no-measure", dest="measure", action="store_false", help="do not measure speeds at the start")
    found = parser.parse_args(arguments)
    return Options(**{**vars(found), "threads": found.threads or free_cores()})


if __name__ == "__main__":
    main()
