"""The same HTTP server with one static file: `python -m bench.static PORT FILE`."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route


def main(port: int, path: str) -> None:
    """Serve until killed."""

    async def file(request: Request) -> FileResponse:  # noqa: ARG001 - the shape of an endpoint
        return FileResponse(path, media_type="application/x-jsonl")

    app = Starlette(routes=[Route("/file", file)])
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", log_level="error", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
