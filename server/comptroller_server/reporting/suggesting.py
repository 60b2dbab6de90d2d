"""What recorded calls used, as the least of a configuration that would have let them through. For a person to review.

Memory is bounded by tools and arguments, not by calls: of each argument a few values, a range and a shape are kept.
"""

from __future__ import annotations

import json
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

from comptroller_audit.query import Logged
from comptroller_audit.vocabulary import Json, JsonObject, RecordType

__all__ = ["WANTED", "Suggestion"]

WANTED: Final = frozenset({RecordType.ACTION, RecordType.READ})
"""Calls that ran: side effects that were committed, and reads that were released."""
CALLS_MIN: Final = 5
"""Fewer calls say nothing about an argument."""
VALUES_MAX: Final = 8
"""More values than these are no list of choices."""
ARGUMENTS_MAX: Final = 64
TASKS_MAX: Final = 10_000
"""Tasks whose calls are counted at a time; the one not seen for longest is let go."""
_is_word = re.compile(r"[A-Za-z0-9_.:/-]{1,60}").fullmatch
_CLASSES: Final = ("[0-9]+", "[a-z0-9]+", "[A-Za-z0-9]+", "[A-Za-z0-9_-]+", "[A-Za-z0-9_.:/-]+")


@dataclass(slots=True)
class _Argument:
    """One argument over many calls. What was once withheld, or is no plain word or number, gives nothing."""

    calls: int = 0
    is_private: bool = False
    numbers: int = 0
    low: float = 0
    high: float = 0
    words: int = 0
    values: Counter[str] = field(default_factory=Counter[str])
    prefix: str = ""
    characters: set[str] = field(default_factory=set[str])

    def take(self, value: Json, shown: Json) -> None:
        self.calls += 1
        self.is_private = self.is_private or value != shown
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.low = min(self.low, value) if self.numbers else value
            self.high = max(self.high, value) if self.numbers else value
            self.numbers += 1
        elif isinstance(value, str) and _is_word(value) and not self.is_private:
            self.prefix = _common(self.prefix, value) if self.words else value
            self.words += 1
            self.characters.update(value)
            if value in self.values or len(self.values) <= VALUES_MAX:
                self.values[value] += 1

    def constraints(self, name: str) -> Iterator[tuple[str, Json]]:
        """Key and value below `constraints`; a key with a dot is one level deeper."""
        if self.is_private or self.calls < CALLS_MIN:
            return
        if self.numbers == self.calls:
            yield f"min_{name}", self.low
            yield f"max_{name}", self.high
        elif self.words == self.calls and len(self.values) <= min(VALUES_MAX, self.calls // 2):
            yield f"one_of.{name}", [*sorted(self.values)]
        elif self.words == self.calls and (at := re.match(r".*[_.:/-]", self.prefix)):
            text = "".join(sorted(self.characters))
            shape = next(one for one in _CLASSES if re.fullmatch(one, text))
            yield f"pattern.{name}", at[0].replace(".", r"\.") + shape


@dataclass(slots=True)
class _Tool:
    effect: str
    calls: int = 0
    roles: frozenset[str] = frozenset()
    arguments: dict[str, _Argument] = field(default_factory=dict[str, _Argument])

    def entry(self, name: str) -> JsonObject:
        found: JsonObject = {"name": name, "allow_actions": [self.effect]}
        if self.roles:
            found["roles"] = [*sorted(self.roles)]
        constraints: JsonObject = {}
        for argument, seen in sorted(self.arguments.items()):
            for key, value in seen.constraints(argument):
                kind, dot, inner = key.partition(".")
                if dot:
                    below = cast("JsonObject", constraints.setdefault(kind, {}))
                    below[inner] = value
                else:
                    constraints[key] = value
        return {**found, "constraints": constraints} if constraints else found


class Suggestion:
    """Takes records one by one; those of other tasks than `task` are left out."""

    def __init__(self, given: Mapping[str, frozenset[str]], task: str | None = None) -> None:
        """`given` are the tools of the configuration, each with the arguments that it gives itself."""
        self._given = given
        self._task = task
        self._tools: dict[str, _Tool] = {}
        self._tasks: OrderedDict[str, int] = OrderedDict()
        self._calls = self._most = self._steps = 0
        self._first_ms = self._last_ms = 0

    def wants(self, packet: JsonObject) -> bool:
        """Whether it is a call of an agent's own, of the task that is looked at, and no later part of one."""
        part = packet.get("part")
        is_later = isinstance(part, dict) and bool(part.get("number"))
        return self._task in (None, packet.get("task")) and not is_later and packet.get("compensates") is None

    def take(self, entry: Logged, shown: Json) -> None:
        """A record of `WANTED` that it wants, and its arguments as anybody may see them."""
        packet = cast("dict[str, Any]", entry.packet)
        name = str(packet["tool"])
        roles = frozenset(str(role) for role in packet.get("principal_roles") or ())
        tool = self._tools.setdefault(name, _Tool(str(packet["effect"]), roles=roles))
        tool.calls += 1
        tool.roles &= roles
        self._first_ms, self._last_ms = self._first_ms or entry.at_ms, entry.at_ms
        self._calls += 1
        self._count(str(packet["task"]), packet.get("step"))
        told: JsonObject = shown if isinstance(shown, dict) else {}
        given: Json = packet.get("arguments")
        for argument, value in (given if isinstance(given, dict) else {}).items():
            known = argument in tool.arguments or len(tool.arguments) < ARGUMENTS_MAX
            if known and argument not in self._given.get(name, frozenset()):
                tool.arguments.setdefault(argument, _Argument()).take(value, told.get(argument))

    def _count(self, task: str, step: Any) -> None:
        self._tasks[task] = self._tasks.pop(task, 0) + 1
        self._most = max(self._most, self._tasks[task])
        self._steps = max(self._steps, step if isinstance(step, int) else 0)
        if len(self._tasks) > TASKS_MAX:
            self._tasks.popitem(last=False)

    def as_json(self) -> JsonObject:
        budgets: JsonObject = {"max_tool_calls": self._most}
        if self._steps:
            budgets["max_steps"] = self._steps
        return {
            "calls": self._calls,
            "budgets": budgets if self._calls else {},
            "tools": [tool.entry(name) for name, tool in sorted(self._tools.items())],
            "not_called": [*sorted(set(self._given) - set(self._tools))],
        }

    def text(self) -> str:
        """The same as YAML, with what each line rests on."""
        if not self._calls:
            return "# No call ran in this time, so there is nothing to suggest.\n"
        told = self.as_json()
        lines = [
            f"# What {self._calls} calls used, {_day(self._first_ms)} to {_day(self._last_ms)}. Nothing was applied:",
            "# compare it with your configuration and take what is right. What did not happen yet may still be right.",
            "budgets:  # the most of one task",
            *(f"  {key}: {value}" for key, value in cast("JsonObject", told["budgets"]).items()),
            "tools:",
        ]
        for entry in cast("list[JsonObject]", told["tools"]):
            lines += self._entry_lines(entry)
        if unused := cast("list[str]", told["not_called"]):
            lines.append(f"# Not called: {', '.join(unused)}. What is not there cannot be misused.")
        return "\n".join(lines) + "\n"

    def _entry_lines(self, entry: JsonObject) -> Iterator[str]:
        tool = self._tools[str(entry["name"])]
        yield f"  - name: {_yaml(entry['name'])}  # {_calls(tool.calls)}"
        for key, value in entry.items():
            if key not in ("name", "constraints"):
                yield f"    {key}: {_yaml(value)}"
        constraints = cast("JsonObject", entry.get("constraints", {}))
        if constraints:
            yield "    constraints:"
        for key, value in constraints.items():
            yield f"      {key}: {_yaml(value)}"
        silent = [name for name, one in sorted(tool.arguments.items()) if not [*one.constraints(name)]]
        if silent:
            yield f"    # nothing is said of: {', '.join(silent)} (withheld, free text, or too few calls)"


def _common(first: str, second: str) -> str:
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    return first[:same]


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _yaml(value: Json) -> str:
    """JSON is YAML, and no text in it can be taken for anything else."""
    return json.dumps(value)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")
