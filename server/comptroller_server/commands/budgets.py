"""`comptroller budgets`: every limit, how much of it is used, held and left, and when it begins anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import JsonObject
from comptroller_budgets.costs import TaskCost, task_cost
from comptroller_budgets.ledger import amount_text
from comptroller_budgets.standing import Standing, task_standings, window_standings
from comptroller_budgets.tasks import CURRENT_TASKS, TASKS, is_over, pointer_of
from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import at, emit, say, table
from comptroller_server.commands.task_reading import row_named
from comptroller_server.installation import TENANT, Installation, principal_key

__all__ = ["Found", "bar", "budgets", "budgets_json", "limits_of"]

BAR_CHARS = 12
_LISTING = "comptroller tasks list"


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in the store: limits of windows, and the tasks that were asked for. `names` are for people."""

    windows: Sequence[Standing]
    tasks: Mapping[str, tuple[Sequence[Standing], TaskCost]]
    names: Mapping[str, str]


@click.command()
@click.option("--task", help="One task, by its id or the beginning of it.")
@click.option("--principal", metavar="SUBJECT", help="Whose windows; without it, those of the local person.")
@options()
@click.pass_context
def budgets(ctx: click.Context, task: str | None, principal: str | None) -> None:
    """Every limit with what is used, held and left, and when it resets.

    Without options: the windows of now and the tasks that are open.
    """
    invocation = invocation_of(ctx)
    if task is not None and principal is not None:
        raise click.UsageError("give --task or --principal, not both")

    async def read(installation: Installation) -> Found:
        def look(reader: Reader) -> Found:
            if task is not None:
                return _of_task(reader, installation, row_named(reader, TASKS, task, "task", _LISTING)[0])
            return limits_of(reader, installation, principal)

        return await installation.store.read(look)

    found = on_store(invocation, read)
    if invocation.as_json:
        emit(budgets_json(found))
    else:
        _show(found)


def _of_task(reader: Reader, installation: Installation, task: str) -> Found:
    standings = task_standings(reader, TENANT, task, installation.config.budgets)
    return Found([], {task: (standings, task_cost(reader, TENANT, task))}, {})


def limits_of(reader: Reader, installation: Installation, subject: str | None) -> Found:
    """The windows of a principal now, and its open tasks; without `subject` those of the local person."""
    config, own = installation.config, installation.identity.principal
    full = own.id if subject is None else subject if "|" in subject else f"{own.issuer}|{subject}"
    key = principal_key(installation.ring, TENANT, full)
    head = reader.head(TENANT)
    # As the pipeline does: a clock that was set back opens no earlier window.
    now_ms = max(installation.ambient.clock.now_ms(), head.record_ms if head is not None else 0)
    actors = list(config.identity.local.clients)
    windows = window_standings(reader, TENANT, key, actors, config.budgets, now_ms)
    tasks: dict[str, tuple[Sequence[Standing], TaskCost]] = {}
    for task in _open_tasks(
        reader, [pointer_of(key, actor) for actor in actors], config.budgets.task_idle_s, now_ms
    ):
        tasks |= _of_task(reader, installation, task).tasks
    return Found(windows, tasks, {key: full})


def _open_tasks(reader: Reader, pointers: Sequence[str], idle_s: int, now_ms: int) -> list[str]:
    """The current tasks of these actors, implied and begun."""
    rows = reader.rows(TENANT, CURRENT_TASKS, pointers)
    named = [task for row in rows.values() for task in (row["task"], row["begun"]) if task]
    tasks = reader.rows(TENANT, TASKS, list(dict.fromkeys(named))) if named else {}
    return [task for task in named if task in tasks and not is_over(tasks[task], now_ms, idle_s)]


def budgets_json(found: Found) -> JsonObject:
    """What was found, for programs."""
    return {
        "windows": [
            {**standing.as_json(), "for": found.names.get(standing.who, standing.who)}
            for standing in found.windows
        ],
        "tasks": [
            {"task": task, "limits": [standing.as_json() for standing in standings], "cost": cost.as_json()}
            for task, (standings, cost) in found.tasks.items()
        ],
    }


def _show(found: Found) -> None:
    if found.windows:
        _table([(found.names.get(one.who, one.who), one) for one in found.windows])
    for task, (standings, cost) in found.tasks.items():
        if found.windows:
            say()
        say(f"task {task}", bold=True)
        if standings:
            _table([("", one) for one in standings])
        say(_cost_line(cost))
    if not found.tasks:
        say("No task is open.")


def _table(rows: Sequence[tuple[str, Standing]]) -> None:
    shown: list[Sequence[str]] = []
    for who, one in rows:
        whole = f" of {amount_text(one.whole_micro)}" if one.whole_micro != one.max_micro else ""
        resets = at(one.resets_ms) if one.resets_ms is not None else "with the task"
        amounts = (amount_text(n) for n in (one.used_micro, one.held_micro, one.left_micro))
        shown.append(
            [
                one.limit.id,
                *([who] if who else []),
                bar(one),
                *amounts,
                amount_text(one.max_micro) + whole,
                resets,
            ]
        )
    named = ["FOR"] if any(who for who, _ in rows) else []
    table(["LIMIT", *named, "SPENT", "USED", "HELD", "LEFT", "MAX", "RESETS"], shown)


def bar(one: Standing) -> str:
    """`[####==......]`: used, held, left. A limit with anything left shows at least one dot."""
    most = max(one.max_micro, 1)
    used = min(BAR_CHARS, -(-one.used_micro * BAR_CHARS // most))
    both = min(BAR_CHARS, -(-(one.used_micro + one.held_micro) * BAR_CHARS // most))
    if one.left_micro > 0:
        used, both = min(used, BAR_CHARS - 1), min(both, BAR_CHARS - 1)
    return f"[{'#' * used}{'=' * (both - used)}{'.' * (BAR_CHARS - both)}]"


def _cost_line(cost: TaskCost) -> str:
    estimated = f" ({cost.estimated_tokens} of them estimated)" if cost.estimated_tokens else ""
    return (
        f"cost so far: {amount_text(cost.cost_micro)} USD; models {amount_text(cost.model_cost_micro)} USD for "
        f"{cost.tokens} tokens{estimated}, tools {amount_text(cost.tool_cost_micro)} USD"
    )
