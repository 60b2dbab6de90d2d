"""The shape of what observe mode let pass, inside the packets of calls (`shapes.py`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["ObservedView"]


class _Open(BaseModel):
    """Fields may be added within a version, so a reader must pass over those it does not know."""

    model_config = ConfigDict(extra="allow", strict=True)


class ObservedDecision(_Open):
    """What policy said at one stage, had it been obeyed."""

    stage: Literal["early", "before", "after"]
    verdict: Literal["deny", "needs_approval"]
    policies: list[str]
    reasons: list[str]
    gates: list[dict[str, Any]] = []


class ObservedView(_Open):
    """The call ran in observe mode, which ends at `until_ms`, although these decisions would have stopped it."""

    until_ms: int
    decisions: list[ObservedDecision]
