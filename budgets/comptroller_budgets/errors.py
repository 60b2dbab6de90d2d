"""Errors of budgets.

    ComptrollerError
    └── BudgetError
        └── LimitInvalid   a limit in the config is unusable; the message names the field
"""

from comptroller_audit.vocabulary import ComptrollerError

__all__ = ["BudgetError", "LimitInvalid"]


class BudgetError(ComptrollerError):
    """Root of this folder's errors."""


class LimitInvalid(BudgetError):
    """A limit in the config is unusable."""
