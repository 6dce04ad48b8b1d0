"""A live client in a process of its own: `python -m bench.prober PORT SECONDS` prints a line a request.

Each line: when it was sent (seconds of the monotonic clock, which all processes share) and its latency in ms.
"""

from __future__ import annotations

import http.client
import json
import sys
import time

PAUSE_S = 0.005
BODY = json.dumps(
    {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "Are you there?"}]}
).encode()
HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01", "x-api-key": "bench"}


def main(port: int, seconds: float) -> None:
    """Ask, wait a moment, ask again, on one connection; `ready` stands before the first figure."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    ask(connection)
    print("ready", flush=True)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        ask(connection)
        print(start, (time.perf_counter() - start) * 1000)
        time.sleep(PAUSE_S)


def ask(connection: http.client.HTTPConnection) -> None:
    """One small live request, answered whole."""
    connection.request("POST", "/v1/messages", body=BODY, headers=HEADERS)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
