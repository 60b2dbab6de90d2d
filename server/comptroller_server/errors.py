"""Errors of the server.

ComptrollerError
└── ServerError
    ├── ConfigInvalid     the configuration does not load; carries every finding (config.py)
    ├── IdentityError     no subject can be proved, or a token file is not safe to use (identity.py)
    ├── TransportError    a transport cannot be opened as asked (stdio.py, http.py)
    └── CommandError      a command cannot be done as asked: no such id, no such file, a credential unknown (commands/)
"""

from __future__ import annotations

from collections.abc import Sequence

from comptroller_audit.vocabulary import ComptrollerError
from comptroller_policy.errors import Finding

__all__ = ["CommandError", "ConfigInvalid", "IdentityError", "ServerError", "TransportError"]


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
