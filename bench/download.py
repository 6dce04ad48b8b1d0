"""A downloading client in a process of its own: `python -m bench.download PORT PATH` prints seconds and bytes."""

from __future__ import annotations

import http.client
import sys
import time

PIECE = 1 << 20
HEADERS = {"accept": "application/binary", "accept-encoding": "identity", "x-api-key": "bench"}


def main(port: int, path: str) -> None:
    """Read it all and throw it away."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    start = time.perf_counter()
    connection.request("GET", path, headers=HEADERS)
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    size = 0
    while piece := answer.read(PIECE):
        size += len(piece)
    print(time.perf_counter() - start, size)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
