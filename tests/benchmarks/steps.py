"""Where one governed call spends CPU, step by step: measured in this process, one call in flight.

Each step's function is wrapped with the CPU clock of its thread; the median over all calls is what it costs. A step
that waits costs nothing meanwhile, because nothing else runs on its thread.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from comptroller_audit.transaction import BatchRunner
from comptroller_audit.vocabulary import JsonObject
from comptroller_server import pipeline as pipeline_module
from comptroller_server.app import Service, running
from comptroller_server.call.proposal import Proposal
from comptroller_server.config.loading import load_config
from comptroller_server.installation import Installation
from tests.benchmarks.governed_server import CONFIG

__all__ = ["ALLOWANCES", "StepCost", "measure_steps"]

_STEPS = (
    ("1, 2 receive, identify", "_intake", "receive"),
    ("3 find", "_intake", "find"),
    ("4 validate", "_intake", "validate"),
    ("5 pre-decide: head row", "_watch", "fresh"),
    ("5 pre-decide", "_decisions", "early"),
    ("6 look up", "_look_ups", "gather"),
    ("7 decide", "_decisions", "before"),
    ("8 approve: bind", "_outcomes", "bind"),
    ("9 commit: compose", "_outcomes", "begin"),
    ("10 run", "_dispatcher", "run"),
    ("11 verify", "_outcomes", "verify"),
    ("12 decide after", "_decisions", "after"),
    ("13 release", "_outcomes", "release"),
    ("14 commit: compose", "_outcomes", "end"),
)
_WRAPPED: tuple[tuple[Any, str], ...] = ((pipeline_module, "success_answer"), (BatchRunner, "run"))
"""What is wrapped for every instance, and put back at the end."""
_ANSWER, _STORE, _REST = "15 answer", "9, 14 store thread", "the story between the steps"
ALLOWANCES = {
    "read_item": dict.fromkeys([name for name, _, _ in _STEPS], 8.0) | {_ANSWER: 10, _STORE: 150, _REST: 20},
    "move_stock": dict.fromkeys([name for name, _, _ in _STEPS], 12.0)
    | {"5 pre-decide": 60, "6 look up": 60, "7 decide": 80, _ANSWER: 10, _STORE: 300, _REST: 25},
}
"""µs of CPU a step may take on the machine of docs/speed.md; more is printed with a mark, not failed."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Median µs of CPU per call."""

    step: str
    microseconds: float


class _Meter:
    """Adds up, per call, the CPU time of each wrapped function on whatever thread it runs."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.calls: dict[str, list[int]] = {}

    def end_of_call(self) -> None:
        for name, spent in self.now.items():
            self.calls.setdefault(name, []).append(spent)
        self.now = {}

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, attribute)
        setattr(owner, attribute, self._timed(inner, name))

    def _timed(self, inner: Callable[..., Any], name: str) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(inner):

            @functools.wraps(inner)
            async def waited(*args: Any, **options: Any) -> Any:
                began = time.thread_time_ns()
                try:
                    return await inner(*args, **options)
                finally:
                    self.now[name] = self.now.get(name, 0) + time.thread_time_ns() - began

            return waited

        @functools.wraps(inner)
        def called(*args: Any, **options: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return inner(*args, **options)
            finally:
                self.now[name] = self.now.get(name, 0) + time.thread_time_ns() - began

        return called


def _arguments(tool: str, number: int) -> JsonObject:
    arguments: JsonObject = {"item_id": f"item-{number}"}
    if tool == "move_stock":
        arguments |= {"quantity": 1 + number, "reason_code": "sold", "why": {"reason": "order was packed"}}
    return arguments


async def _measure(service: Service, tool: str, calls: int) -> list[StepCost]:
    meter = _Meter()
    for name, owner, attribute in _STEPS:
        meter.wrap(getattr(service.pipeline.now, owner), attribute, name)
    for owner, name in _WRAPPED:
        meter.wrap(owner, name, _ANSWER if owner is pipeline_module else _STORE)
    subject = service.installation.identity.stdio_subject("bench")
    whole: list[int] = []
    for number in range(calls):
        proposal = Proposal(subject, tool, _arguments(tool, number))
        began = time.thread_time_ns()
        answer = await service.pipeline.call(proposal)
        spent = time.thread_time_ns() - began
        assert not answer.is_error, answer.text
        whole.append(spent - sum(cost for step, cost in meter.now.items() if step != _STORE))
        meter.end_of_call()
    costs = [StepCost(name, median(meter.calls[name]) / 1000) for name in meter.calls]
    return [*costs, StepCost(_REST, median(whole) / 1000)]


def measure_steps(folder: Path, tool: str, calls: int) -> list[StepCost]:
    """The costs of `calls` calls of `tool` on a new store in `folder`."""

    async def run() -> list[StepCost]:
        async with running(Installation(load_config(CONFIG, data_dir=folder))) as service:
            return await _measure(service, tool, calls)

    kept = [(owner, name, getattr(owner, name)) for owner, name in _WRAPPED]
    try:
        return asyncio.run(run())
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)
