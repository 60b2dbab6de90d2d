"""What packets say about models and cost: reported, charged, and what the task has cost by then."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ReportView", "TaskUsageView", "UsageView"]


class _Open(BaseModel):
    """As in shapes.py: fields may be added, so a reader passes over those it does not know."""

    model_config = ConfigDict(extra="allow", strict=True)


class ReportView(_Open):
    """What the client says a model has used since the task began. `name` is a role or a model."""

    name: str
    model: str | None
    input_tokens: int
    output_tokens: int


class TaskUsageView(_Open):
    """What the whole task has used once this record was written."""

    tokens: int
    estimated_tokens: Annotated[int, Field(description="the part of `tokens` that no report covers")]
    model_cost_usd: str
    tool_cost_usd: str
    cost_usd: str


class UsageView(_Open):
    """What the call cost: the models around it, and its tool. Amounts of money are decimal texts."""

    reported: list[ReportView] = []
    tokens: int | None = None
    estimated: Annotated[bool | None, Field(description="the call came without a report")] = None
    model_cost_usd: str | None = None
    tool_cost_usd: str | None = None
    cost_usd: str | None = None
    task: TaskUsageView | None = None
