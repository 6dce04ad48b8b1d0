"""Record the wire of a running engine into tests/engines/transcripts/NAME, or read the recordings anew.

python -m tools.record_engines vllm --url http://127.0.0.1:8000 --version "vllm 0.32.0"
python -m tools.record_engines llamacpp            (starts the embedded one)
python -m tools.record_engines host                (starts the embedded one)
python -m tools.record_engines --read-again        (engines stay off: only what is made of the bytes is written)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from standby.engines.base import Engine
from standby.engines.model_file import find_model, model_name
from tests.engines.replaying import FOLDER, SCENES, Player, Recorder, Scene, adapter, outcome, served, trimmed

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = {"host": ("openvino", "openvino-genai"), "llamacpp": ("llamacpp", "xllamacpp")}


def main() -> int:
    """Record one engine, or read all recordings again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", nargs="?", choices=("vllm", *BACKENDS))
    parser.add_argument("--url", help="where it listens; not for embedded ones")
    parser.add_argument("--version", default="", help="which release it is")
    parser.add_argument("--read-again", action="store_true", help="write anew what the adapter makes of the bytes")
    options = parser.parse_args()
    if options.read_again:
        asyncio.run(read_again())
    elif options.url:
        asyncio.run(record(options.engine, options.url, None, options.version))
    else:
        with embedded(options.engine) as uds:
            package = BACKENDS[options.engine][1]
            asyncio.run(record(options.engine, "http://engine", uds, f"{package} {version_of(package)}"))
    return 0


async def record(name: str, url: str, uds: str | None, version: str) -> None:
    """Play every scene to the engine and write what passed."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(url=url, uds=uds, hide={str(ROOT): "", str(Path.home()): ""})
    async with recorder.listening() as at, adapter(at) as engine:
        for title, scene in SCENES.items():
            write(folder / f"{title}.json", await play(recorder, engine, scene))
        (model,) = await engine.models()
        signals = await engine.signals()
    about = {"engine": version, "recorded": datetime.now(UTC).date().isoformat()}
    summary = {"model": [model.id, model.max_input_tokens], "signals": signals is not None}
    pages = {path: trimmed(page) if path == "/metrics" else page for path, page in recorder.tape.pages.items()}
    write(folder / "pages.json", {**about, **summary, "pages": pages})
    print(f"recorded {len(SCENES)} scenes of {name}")


async def play(recorder: Recorder, engine: Engine, scene: Scene) -> dict[str, Any]:
    """Play one scene."""
    tape = recorder.tape
    if scene.twice:
        await outcome(engine, scene)
    tape.answers, tape.changes, tape.is_on = [], scene.changes, True
    came = await outcome(engine, scene)
    tape.changes, tape.is_on = {}, False
    return {"changes": scene.changes, "answers": tape.answers, "outcome": came}


async def read_again() -> None:
    """Let the adapter read all recordings and write what it makes of them."""
    for pages in sorted(FOLDER.glob("*/pages.json")):
        for title, scene in SCENES.items():
            file = pages.parent / f"{title}.json"
            recording = json.loads(file.read_text(encoding="utf-8"))
            player = Player(json.loads(pages.read_text(encoding="utf-8"))["pages"])
            async with served(player.answer) as url, adapter(url) as engine:
                player.answers = list(recording["answers"])
                came = await outcome(engine, scene)
            if came != recording["outcome"]:
                print(f"{file.relative_to(ROOT)}: read otherwise")
                write(file, {**recording, "outcome": came})


def write(file: Path, recording: dict[str, Any]) -> None:
    """Write JSON that people can compare."""
    file.write_text(json.dumps(recording, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


@contextmanager
def embedded(name: str) -> Iterator[str]:
    """Start an embedded engine; yield the path of its socket."""
    model = find_model("")
    with tempfile.TemporaryDirectory(prefix="standby-record-") as folder:
        uds = str(Path(folder) / "h.sock")
        command = [sys.executable, "-m", "standby.host", "--watch-stdin", "--backend", BACKENDS[name][0]]
        command += ["--slots", "2", "--context", "2048", "--kv-cache-mb", "64"]
        command += ["--model", str(model), "--name", model_name(model), "--uds", uds]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"{name} did not start")
            yield uds
        finally:
            process.stdin.close()
            process.wait(20)
            process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
