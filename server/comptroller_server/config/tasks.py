"""`tasks:` what makes a task a success, as Comptroller itself can see it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from comptroller_policy.declarations import Name

__all__ = ["SuccessRule", "TasksConfig"]

UnitKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SuccessRule(_Section):
    """One condition: `fact` is read with `tool`, and each path in `expect` must equal its expression.

    Arguments and expressions may name `{task.unit.id}` and `{task.records.KIND}`, a record of this kind that a side
    effect of the task acted on; with several of them the condition must hold for each. With `unit` the condition is
    for tasks about a record of this kind.
    """

    fact: Name
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    expect: dict[str, str] = Field(min_length=1)
    unit: UnitKind | None = None


class TasksConfig(_Section):
    """`tasks:` conditions of success. Without any, success is the agent's word, and recorded as such."""

    success: tuple[SuccessRule, ...] = ()
