"""What tasks cost: the models around them, as metered, and the declared cost of the tools they called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import JsonObject
from comptroller_budgets.ledger import COUNTERS, amount_text
from comptroller_budgets.limits import COST, task_counter
from comptroller_budgets.metering import TASK_USAGE, usage_of

__all__ = ["NO_COST", "TaskCost", "task_cost", "task_costs"]


@dataclass(frozen=True, slots=True)
class TaskCost:
    """All that one task has used, in tokens and micro-USD. What is held for calls that still run counts as spent."""

    tokens: int = 0
    estimated_tokens: int = 0
    model_cost_micro: int = 0
    tool_cost_micro: int = 0

    @property
    def cost_micro(self) -> int:
        return self.model_cost_micro + self.tool_cost_micro

    def as_json(self) -> JsonObject:
        """As packets and answers show it: amounts of money are decimal texts."""
        return {
            "tokens": self.tokens,
            "estimated_tokens": self.estimated_tokens,
            "model_cost_usd": amount_text(self.model_cost_micro),
            "tool_cost_usd": amount_text(self.tool_cost_micro),
            "cost_usd": amount_text(self.cost_micro),
        }


NO_COST = TaskCost()


def task_costs(reader: Reader, tenant: str, tasks: Iterable[str]) -> Mapping[str, TaskCost]:
    """What each of `tasks` cost; two selects. A task that used nothing, or is unknown, cost nothing."""
    ids = list(dict.fromkeys(tasks))
    used = reader.rows(tenant, TASK_USAGE, ids)
    spent = reader.rows(tenant, COUNTERS, [task_counter(task, COST) for task in ids])
    costs: dict[str, TaskCost] = {}
    for task in ids:
        usage = usage_of(used.get(task))
        counter = spent.get(task_counter(task, COST)) or {"used": 0, "held": 0}
        costs[task] = TaskCost(
            usage.total.total, usage.estimated, usage.cost_micro, counter["used"] + counter["held"]
        )
    return costs


def task_cost(reader: Reader, tenant: str, task: str) -> TaskCost:
    """What one task cost."""
    return task_costs(reader, tenant, [task])[task]
