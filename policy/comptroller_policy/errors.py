"""Errors of policy.

ComptrollerError
└── PolicyError
    ├── BundleInvalid     the policies, rules or schemas do not load; carries every finding
    ├── ExpressionError   a path or an expression does not parse or cannot be computed exactly
    └── ValueInexact      a value that policy reads has no exact Cedar form: deny
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comptroller_audit.vocabulary import ComptrollerError

__all__ = ["BundleInvalid", "ExpressionError", "Finding", "PolicyError", "ValueInexact"]


class PolicyError(ComptrollerError):
    """Root of this folder's errors."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong at load. `where` is `file:line` or a config path such as `tools[2].constraints`."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class BundleInvalid(PolicyError):
    """The bundle does not load. Every finding is listed, so one edit can fix them all."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in findings))


class ExpressionError(PolicyError):
    """A `{path}` or an arithmetic expression does not parse, names nothing, or has no exact value."""


class ValueInexact(PolicyError):
    """A value that policy reads is missing, of another type, or has no exact Cedar form. The call is denied."""
