"""A server that stops for ever at a named point of a call, for the demo to kill. Not a command, not for use.

`python -m comptroller_server.demo.pause --config F --data-dir D <point> <reached file>`
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

__all__ = ["main"]

PAUSE_S_MAX = 120.0


def main(words: list[str]) -> None:
    """Serve on a free loopback port; at `point` write the reached file and stand still until killed."""
    from comptroller_server import __version__
    from comptroller_server.app import running
    from comptroller_server.config.loading import load_config
    from comptroller_server.face.http import build_app, serve_http, subject_of
    from comptroller_server.face.protocol import build_server
    from comptroller_server.installation import Ambient, Installation

    _, config, _, data, point, reached = words

    def pause(passed: str) -> None:
        if passed == point:
            Path(reached).touch()
            time.sleep(
                PAUSE_S_MAX
            )  # the whole process stands still: nothing may run between here and the kill

    def tell(url: str) -> None:
        sys.stderr.write(f"{url}\n")
        sys.stderr.flush()

    async def serve() -> None:
        installation = Installation(load_config(Path(config), data_dir=Path(data)), Ambient(fault=pause))
        async with running(installation) as service:
            server = build_server(service.pipeline, subject_of=subject_of, version=__version__)
            app = build_app(server, installation.identity)
            await serve_http(app, "127.0.0.1", 0, ready=tell)

    asyncio.run(serve())


if __name__ == "__main__":
    main(sys.argv[1:])
