"""What an operator declares about one tool, as far as policy is concerned. Shapes only; `rules.py` compiles them.

`{path}` in a string is a reference to `input`, `facts`, `output`, `call` or `task`; `derived` are expressions
(`expressions.py`); `approval[].when` is Cedar text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from comptroller_audit.vocabulary import Effect

__all__ = [
    "Aim",
    "ApprovalRule",
    "ClientWord",
    "FactRule",
    "HistoryRule",
    "HistoryWindow",
    "Name",
    "Origin",
    "RequesterTerms",
    "RolloutMode",
    "ToolRules",
]

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HistoryWindow(StrEnum):
    TASK = "task"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class RolloutMode(StrEnum):
    """`human_approval` puts the gate `@approval("approver")` on every side effect outside the canary.

    `auto` asks nobody until a breach or a `demote` brings the gate back; `off` knows no rollout at all.
    """

    OFF = "off"
    AUTO = "auto"
    HUMAN_APPROVAL = "human_approval"


class ClientWord(StrEnum):
    """What may happen on a client's word that its person agreed, once the config says so: these are refused else."""

    DELETE = "delete"
    EXECUTE = "execute"
    MONEY = "money"


class Origin(StrEnum):
    """From most to least trusted; ABSENT says that the argument was not given, or holds nothing.

    REQUEST: in the trusted request of the task. TRUSTED: in a trusted read. UNTRUSTED: only in untrusted content.
    NEW: nowhere that Comptroller has seen.
    """

    REQUEST = "request"
    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    NEW = "new"
    ABSENT = "absent"


class Aim(StrEnum):
    """What an argument is for. A TARGET (recipient, path, URL, account) that is new counts as untrusted."""

    TARGET = "target"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class RequesterTerms:
    """Where gates of role `requester` may stand. `asked` says whether any client has a person who can be asked."""

    may: frozenset[ClientWord] = frozenset()
    asked: bool = False


class FactRule(_Declared):
    """A record that Comptroller itself looks up before deciding, with a tool classified as read."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class HistoryRule(_Declared):
    """A count of committed calls of a tool, by this task or principal, within a window (UTC)."""

    count: str
    window: HistoryWindow = HistoryWindow.DAY


class ApprovalRule(_Declared):
    """`at_least` distinct people with `role` must agree, always or when the Cedar condition holds.

    Role `requester` is the person the call is made for, asked at the client.
    """

    role: Name
    at_least: int = Field(default=1, ge=1, le=10)
    when: str | None = None


class ToolRules(_Declared):
    """The policy part of one entry of `tools:`. A `hidden` tool is there for Comptroller's own reads and reversals."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    allow_actions: tuple[Effect, ...] = ()
    roles: tuple[Name, ...] | None = None
    hidden: bool = False
    constraints: dict[str, Any] = Field(default_factory=dict)
    resource: str | None = None
    facts: dict[Name, FactRule] = Field(default_factory=dict)
    derived: dict[Name, str] = Field(default_factory=dict)
    history: dict[str, HistoryRule] = Field(default_factory=dict)
    provenance: dict[str, Aim] = Field(default_factory=dict, max_length=100)
    approval: tuple[ApprovalRule, ...] = ()

    @property
    def effect(self) -> Effect:
        """The strongest effect the operator allows; without a classification, EXECUTE."""
        order = list(Effect)
        return max(self.allow_actions, key=order.index, default=Effect.EXECUTE)
