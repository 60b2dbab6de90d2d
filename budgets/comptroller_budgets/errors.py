"""Errors of budgets.

ComptrollerError
└── BudgetError
    ├── LimitInvalid   a limit in the config is unusable; the message names the field
    └── HoldTaken      a call that has a hold was to take another
"""

from comptroller_audit.vocabulary import ComptrollerError

__all__ = ["BudgetError", "HoldTaken", "LimitInvalid"]


class BudgetError(ComptrollerError):
    """Root of this folder's errors."""


class LimitInvalid(BudgetError):
    """A limit in the config is unusable."""


class HoldTaken(BudgetError):
    """A call takes its hold once. A programming error, never an outcome."""
