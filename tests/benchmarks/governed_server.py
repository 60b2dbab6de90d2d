"""The same tools governed, as the command line serves them, over HTTP or stdio: `… governed_server http|stdio FOLDER [CONFIG]`.

The store, its keys and the checkpoints lie in FOLDER. Commits are counted where the store says it is durable.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.benchmarks.wire import Counts, answer_counts

__all__ = ["CONFIG"]

CONFIG = Path(__file__).with_name("warehouse.yaml")


class _Durable:
    """The store's fault point, used to count what became durable."""

    def __init__(self) -> None:
        self.commits = 0

    def __call__(self, point: str) -> None:
        self.commits += point == "commit.after"


async def _http(folder: Path, config: Path) -> None:
    from comptroller_server.app import running
    from comptroller_server.config.loading import load_config
    from comptroller_server.face.http import build_app, serve_http, subject_of
    from comptroller_server.face.protocol import build_server
    from comptroller_server.installation import Ambient, Installation
    from comptroller_server.memory import settle_memory

    durable = _Durable()
    installation = Installation(load_config(config, data_dir=folder), Ambient(fault=durable))
    async with running(installation) as service:
        server = build_server(service.pipeline, subject_of=subject_of, version="1")

        settle_memory()

        def ready(url: str) -> None:
            token = installation.identity.token_file("bench").read_text().strip()
            port = int(url.rsplit(":", 1)[1].split("/")[0])
            answer_counts({"port": port, "token": token}, lambda: Counts(durable.commits))

        await serve_http(build_app(server, installation.identity), "127.0.0.1", 0, ready=ready)


def _stdio(folder: Path, config: Path) -> None:
    """The command itself: what it loads first is part of what is measured."""
    from comptroller_server.cli import main

    sys.argv = [
        "comptroller",
        "--config",
        str(config),
        "--data-dir",
        str(folder),
        "serve",
        "--client",
        "bench",
    ]
    main()


if __name__ == "__main__":
    written = Path(sys.argv[3]) if len(sys.argv) > 3 else CONFIG
    if sys.argv[1] == "stdio":
        _stdio(Path(sys.argv[2]), written)
    else:
        asyncio.run(_http(Path(sys.argv[2]), written))
