"""A real server in a process of its own, and a small client, for every test that needs a socket.

    with ServerProcess(tmp_path / "data") as server:
        batch = create(server, [item("a"), item("b")])
        wait_ended(server, batch["id"])
        rows = results(server, batch["id"])

The client is `http.client`: it retries nothing and hides nothing, so a test sees each answer as it was.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from standby.config import EMULATOR, known_keys

READY_S = 60.0
END_S = 120.0
TAIL = 6000
HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "any-key"}
PROGRAM = (sys.executable, "-m", "standby")


class Died(AssertionError):
    """The server's process ended while a test waited for it."""


class NoAnswer(Exception):
    """The connection broke before a whole answer came: what happened on the server is unknown."""


class ServerProcess:
    """`standby serve` on one data folder; a context manager that leaves no process behind.

    Every start on the same folder appends to one log beside it. `program` replaces the command in front of
    `serve`, for tests that run the program under something else. The simulator is only an engine here: the server
    behaves as with any other, unless `emulator` or `config` say otherwise.
    """

    def __init__(
        self,
        data: Path,
        *,
        engine: str = "simulated",
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        config: Mapping[str, Mapping[str, Any]] | None = None,
        log: Path | None = None,
        program: Sequence[str] = PROGRAM,
        emulator: bool = False,
    ) -> None:
        """Keep the command; nothing runs before `start` or `with`."""
        self.data = data
        self.port = port or free_port()
        self.log = log or data.with_name(f"{data.name}.log")
        self.env = dict(env or {})
        self.command = [*program, "serve", "--engine", engine, "--port", str(self.port), "--data", str(data)]
        if engine == "simulated" and not emulator:
            config = unlike_the_emulator(config or {})
        if config is not None:
            self.command += ["--config", str(write_config(self.log.with_suffix(".toml"), config))]
        self.command += flags
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        """Start and wait until the server is ready."""
        self.start()
        try:
            self.wait_ready()
        except BaseException as error:
            self._explain(error)
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the whole process group; on failure add the end of the log to the error."""
        self.close()
        if error is not None:
            self._explain(error)

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self.process is not None, "not started"
        return self.process.pid

    def start(self) -> Self:
        """Start the process, without waiting for anything."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment(self.env),
                start_new_session=True,
            )
        return self

    def restart(self) -> Self:
        """Start again on the same folder and port after the process ended, and wait until it is ready."""
        assert self.process is None or self.process.poll() is not None, "still running"
        self.close()
        self.start()
        self.wait_ready()
        return self

    def wait_ready(self, timeout: float = READY_S) -> None:
        """Poll `GET /ready` until it answers 200; `Died` if the process ends first."""
        wait_until(self.is_ready, timeout, f"{self.url} never became ready; the log ends with\n{self.tail()}")

    def is_ready(self) -> bool:
        """Ask once; `Died` if there is no process."""
        assert self.process is not None, "not started"
        if self.process.poll() is not None:
            raise Died(f"the server ended with {self.process.returncode}; its log:\n{self.tail()}")
        try:
            return call(self, "GET", "/ready", timeout=5).status == 200
        except NoAnswer:
            return False

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the server alone, as a crash would: its children learn of it by themselves."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """SIGTERM to the server; `wait` for the end."""
        self.signal(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: the process stands still and does not know it."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send any signal to the server alone, if it still runs."""
        assert self.process is not None, "not started"
        self.process.send_signal(number)

    def wait(self, timeout: float = READY_S) -> int:
        """Wait for the end and return the exit status (negative: the signal)."""
        assert self.process is not None, "not started"
        return self.process.wait(timeout)

    def close(self) -> None:
        """End everything that this start left running."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(READY_S)
        self.process = None

    def log_text(self) -> str:
        """What the process wrote since its last start."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def tail(self) -> str:
        """The end of the log."""
        return self.log_text()[-TAIL:]

    def _explain(self, error: BaseException) -> None:
        error.add_note(f"--- end of {self.log} ---\n{self.tail()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)

    def ok(self) -> Any:
        """Decode the body of a 200; anything else is a failure that shows the answer."""
        assert self.status == 200, f"{self.status}: {self.body[:2000]!r}"
        return self.json()


Target = ServerProcess | str


def call(
    server: Target,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Answer:
    """Send one HTTP request on a connection of its own; `NoAnswer` if the answer did not come whole.

    `body` is bytes as they are, or anything that JSON can say. `path` may be a whole URL.
    """
    base = urlsplit(path if "://" in path else (server if isinstance(server, str) else server.url) + path)
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {**HEADERS, **({"content-type": "application/json"} if raw is not None else {}), **(headers or {})}
    connection = http.client.HTTPConnection(base.hostname or "127.0.0.1", base.port or 80, timeout=timeout)
    try:
        connection.request(method, base.path + (f"?{base.query}" if base.query else ""), body=raw, headers=sent)
        response = connection.getresponse()
        return Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=response.read(),
        )
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()


def item(custom_id: str, text: str = "Say something.", **params: Any) -> dict[str, Any]:
    """Write one item of a create."""
    return {"custom_id": custom_id, "params": message(text, **params)}


def message(text: str = "Say something.", **params: Any) -> dict[str, Any]:
    """Write the body of a Messages request."""
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 32,
        "messages": [{"role": "user", "content": text}],
        **params,
    }


def create(server: Target, items: Sequence[Mapping[str, Any]], *, headers: Mapping[str, str] | None = None) -> Any:
    """Create a batch; anything but 200 is a failure."""
    return call(server, "POST", "/v1/messages/batches", {"requests": list(items)}, headers=headers).ok()


def retrieve(server: Target, batch_id: str) -> Any:
    """Read a batch."""
    return call(server, "GET", f"/v1/messages/batches/{batch_id}").ok()


def cancel(server: Target, batch_id: str) -> Any:
    """Cancel a batch."""
    return call(server, "POST", f"/v1/messages/batches/{batch_id}/cancel").ok()


def delete(server: Target, batch_id: str) -> Any:
    """Delete a batch."""
    return call(server, "DELETE", f"/v1/messages/batches/{batch_id}").ok()


def results_bytes(server: Target, batch_id: str) -> bytes:
    """Download the results as they are."""
    answer = call(server, "GET", f"/v1/messages/batches/{batch_id}/results")
    assert answer.status == 200, f"{answer.status}: {answer.body[:2000]!r}"
    return answer.body


def results(server: Target, batch_id: str) -> dict[str, Any]:
    """Download the results as {custom_id: result}; a doubled id is a failure."""
    rows = [json.loads(line) for line in results_bytes(server, batch_id).splitlines()]
    found = {row["custom_id"]: row["result"] for row in rows}
    assert len(found) == len(rows), "a custom_id has two results"
    return found


def list_batches(server: Target, *, limit: int = 1000) -> list[Any]:
    """Walk the whole list by `after_id`, newest first."""
    found: list[Any] = []
    query = f"?limit={limit}"
    while True:
        page = call(server, "GET", f"/v1/messages/batches{query}").ok()
        found += page["data"]
        if not page["has_more"]:
            return found
        query = f"?limit={limit}&after_id={page['last_id']}"


def wait_ended(server: Target, batch_id: str, timeout: float = END_S) -> Any:
    """Poll until the batch has ended and return it."""
    seen: list[Any] = []

    def ended() -> bool:
        seen[:] = [retrieve(server, batch_id)]
        return bool(seen[0]["processing_status"] == "ended")

    wait_until(ended, timeout, lambda: f"{batch_id} did not end: {seen}")
    return seen[0]


def wait_until(
    met: Callable[[], bool], timeout: float, complaint: str | Callable[[], str], *, every: float = 0.02
) -> None:
    """Poll until `met` says so; a bound, never a measurement."""
    until = time.monotonic() + timeout
    while not met():
        if time.monotonic() > until:
            raise AssertionError(complaint if isinstance(complaint, str) else complaint())
        time.sleep(every)


def metrics(server: Target) -> dict[str, float]:
    """Read `/metrics` as {"name{labels}": value}."""
    answer = call(server, "GET", "/metrics")
    assert answer.status == 200, f"{answer.status}: {answer.body[:2000]!r}"
    lines = (line.rpartition(" ") for line in answer.body.decode().splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def doctor(data: Path, *, timeout: float = 300.0) -> str:
    """Run `standby doctor` on a folder that no server holds; anything found is a failure. Returns what it says."""
    done = subprocess.run(
        [*PROGRAM, "doctor", "--data", str(data)],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"doctor found something ({done.returncode}):\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Build an environment without anybody's `STANDBY_` settings but `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDBY_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unlike_the_emulator(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Add what every other engine has by default and the simulator has not (`config.EMULATOR`)."""
    usual = known_keys()
    added = dict(config)
    for key in EMULATOR:
        table, _, name = key.partition(".")
        added[table] = {name: usual[key]["default"], **added.get(table, {})}
    return added


def write_config(path: Path, config: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a settings file; JSON's scalars and lists are TOML's."""
    tables = (
        f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for table, values in config.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(tables), encoding="utf-8")
    return path
