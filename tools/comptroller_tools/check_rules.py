"""One entry of `tools[].checks:` in the config: which function, when, and what it may see."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from comptroller_policy.declarations import Name

__all__ = ["CHECKS_MAX", "CheckRule", "CheckWhen"]

CHECKS_MAX = 16
"""Checks of one tool."""

CheckTarget = Annotated[
    str,
    Field(pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:{}]+\.py):[A-Za-z_]\w*$", max_length=1024),
]


class CheckWhen(StrEnum):
    """`before` the call is committed, or `after` it ran."""

    BEFORE = "before"
    AFTER = "after"


class CheckRule(BaseModel):
    """A typed Python function that looks at each call: `module:function` or `./file.py:function`.

    It sees the `facts` and `history` named here and no others; both are looked up because they are named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: CheckTarget
    when: CheckWhen
    facts: tuple[Name, ...] = ()
    history: tuple[str, ...] = ()
    options: dict[Name, Any] = Field(default_factory=dict)
    timeout_s: float = Field(default=5, gt=0, le=60)

    @property
    def name(self) -> str:
        """The function's own name: what answers call the check."""
        return self.python.rpartition(":")[2]
