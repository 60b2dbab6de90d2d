"""A server in which something goes wrong when the demo says so. Not a command, not for use.

`python -m comptroller_server.demo.faulty --config F --data-dir D <fault> <file>`

`<fault>` is a named point of a call: there the server writes the file and stands still for ever, to be killed. Or it is
`trouble`: while the file says `no_space`, no commit succeeds; when it says `defect`, the next call runs into one.
"""

from __future__ import annotations

import asyncio
import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comptroller_server.call.case import Case

__all__ = ["DEFECT", "NO_SPACE", "TROUBLE", "main"]

PAUSE_S_MAX = 120.0
TROUBLE, NO_SPACE, DEFECT = "trouble", "no_space", "defect"


def main(words: list[str]) -> None:
    """Serve on a free loopback port until killed or told to end."""
    from comptroller_server import __version__
    from comptroller_server.app import running
    from comptroller_server.config.loading import load_config
    from comptroller_server.face.http import build_app, serve_http, subject_of
    from comptroller_server.face.protocol import build_server
    from comptroller_server.installation import Ambient, Installation

    _, config, _, data, fault, file = words

    def tell(url: str) -> None:
        sys.stderr.write(f"{url}\n")
        sys.stderr.flush()

    async def serve() -> None:
        if fault == TROUBLE:
            _plant_defect(Path(file))
        loaded = load_config(Path(config), data_dir=Path(data))
        installation = Installation(loaded, Ambient(fault=_fault(fault, Path(file))))
        async with running(installation) as service:
            server = build_server(
                service.pipeline,
                subject_of=subject_of,
                version=__version__,
                elicitation_wait_s=loaded.limits.elicitation_wait_s,
            )
            app = build_app(server, installation.identity)
            await serve_http(app, "127.0.0.1", 0, ready=tell)

    asyncio.run(serve())


def _fault(name: str, file: Path) -> Callable[[str], None]:
    def pause(passed: str) -> None:
        if passed == name:
            file.touch()
            time.sleep(
                PAUSE_S_MAX
            )  # the whole process stands still: nothing may run between here and the kill

    def fail(passed: str) -> None:
        if passed == "commit.before" and _says(file, NO_SPACE):
            raise OSError(errno.ENOSPC, "No space left on device")

    return fail if name == TROUBLE else pause


def _plant_defect(file: Path) -> None:
    """A step of the pipeline raises, once, what nobody expects there."""
    from comptroller_server.call.intake import Intake

    sound = Intake.find

    def find(self: Intake, case: Case) -> None:
        if _says(file, DEFECT):
            file.unlink()
            raise RuntimeError("the demo's own defect")
        sound(self, case)

    Intake.find = find  # type: ignore[method-assign]  # this is the defect


def _says(file: Path, word: str) -> bool:
    return file.exists() and file.read_text() == word


if __name__ == "__main__":
    main(sys.argv[1:])
