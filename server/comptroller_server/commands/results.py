"""Results of cases: texts on the one road to the terminal and to files, and files that are replaced at once."""

from __future__ import annotations

from pathlib import Path

from comptroller_audit.files import replace_file
from comptroller_audit.redaction import Audience
from comptroller_server.commands.showing import plain
from comptroller_server.errors import CommandError
from comptroller_server.installation import Installation

__all__ = ["Told", "write_results"]


class Told:
    """Texts are released for a person, and safe to print."""

    def __init__(self, installation: Installation) -> None:
        self._release = installation.release

    def __call__(self, text: str) -> str:
        return plain(self._release.text(text, Audience.PERSON))


def write_results(path: Path, text: str) -> None:
    """Raises `CommandError`."""
    try:
        replace_file(path, text.encode(), 0o644)
    except OSError as error:
        raise CommandError(f"the results cannot be written to {path}: {error.strerror}") from error
