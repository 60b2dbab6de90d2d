"""Errors of the server.

ComptrollerError
└── ServerError
    ├── ConfigInvalid     the configuration does not load; carries every finding (config.py)
    ├── IdentityError     no subject can be proved, or a token file is not safe to use (identity.py)
    ├── TransportError    a transport cannot be opened as asked (stdio.py, http.py)
    ├── CannotDecide      what is known of a call is not enough to decide it (rehearsal/)
    └── CommandError      a command cannot be done as asked: no such id, no such file, a credential unknown (commands/)
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from comptroller_audit.vocabulary import ComptrollerError
from comptroller_policy.errors import Finding

__all__ = [
    "CannotDecide",
    "CommandError",
    "ConfigInvalid",
    "IdentityError",
    "Lack",
    "ServerError",
    "TransportError",
]


class ServerError(ComptrollerError):
    """Root of this folder's errors."""


class ConfigInvalid(ServerError):
    """The configuration does not load. Every finding is listed, so one edit can fix them all."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings: tuple[Finding, ...] = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class IdentityError(ServerError):
    """No subject can be proved for a request, or a token file is missing, malformed or readable by others."""


class TransportError(ServerError):
    """A transport cannot be opened as asked. The command line ends with exit code 2."""


class CommandError(ServerError):
    """A command cannot be done as asked. Nothing was changed; the command line ends with exit code 2."""


class Lack(StrEnum):
    """What is missing where a call cannot be decided."""

    ERASED = "erased"
    ARGUMENTS = "arguments"
    FIT = "fit"
    """Not missing, but not what the tool takes: the call would be refused before policy is asked."""
    TOOL = "tool"
    FACTS = "facts"
    HISTORY = "history"
    DERIVED = "derived"
    PROVENANCE = "provenance"
    DRAW = "draw"
    APPROVALS = "approvals"


class CannotDecide(ServerError):
    """What is known of a call is not enough to decide it. Nothing is guessed: `lacks` says what kind of thing is missing.

    `part` is the section of a test case that the message is about: `arguments`, `facts`, `history`, `derived`, `tool`.
    """

    def __init__(self, lacks: Lack, message: str, part: str = "") -> None:
        self.lacks = lacks
        self.part = part
        super().__init__(message)
