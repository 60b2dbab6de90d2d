"""Runs a Step Functions definition here: as much of the Amazon States Language as the example uses, no more.

What it does not know it refuses. HTTP tasks are really sent; no time passes in a `Wait`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httpx

__all__ = ["Execution"]

HTTP = "arn:aws:states:::http:invoke"
STEPS_MAX = 100
WAIT_S_MAX = 60
NOT_TAKEN = frozenset(
    {"accept-encoding", "authorization", "cache-control", "connection", "host", "origin", "via"}
)
"""Headers that Step Functions refuses in an HTTP task, as far as anybody would send them; it has more."""
_PART = re.compile(r"\.(\w+)|\['([^']+)'\]|\[(\d+)\]")


class Failed(Exception):
    """A state failed with an error that `Retry` may name."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


@dataclass
class Execution:
    """One execution. `waits` is told the state's name at each `Wait`; `lost` names states whose first answer is lost."""

    definition: Mapping[str, Any]
    name: str
    url: str
    token: str
    waits: Callable[[str], None] = print
    lost: frozenset[str] = frozenset()
    visited: list[str] = field(default_factory=list[str])
    sent: list[str] = field(default_factory=list[str])

    def run(self, given: Any) -> dict[str, Any]:
        """`{"output": …}` of a success, `{"error": …, "cause": …}` of a failure."""
        name, document = self.definition["StartAt"], given
        for _ in range(STEPS_MAX):
            self.visited.append(name)
            state = self.definition["States"][name]
            match state["Type"]:
                case "Succeed":
                    return {"output": self._at(state["OutputPath"], document)}
                case "Fail":
                    paths = (state["ErrorPath"], state["CausePath"])
                    error, cause = (self._at(path, document) for path in paths)
                    return {"error": error, "cause": cause}
                case "Wait":
                    self.waits(name)
                    name = state["Next"]
                case "Choice":
                    chosen = [rule["Next"] for rule in state["Choices"] if self._holds(rule, document)]
                    name = [*chosen, state["Default"]][0]
                case "Task":
                    document = {
                        **document,
                        state["ResultPath"].removeprefix("$."): self._task(name, state, document),
                    }
                    name = state["Next"]
                case other:
                    raise AssertionError(f"a state of type {other}")
        raise AssertionError(f"no end after {STEPS_MAX} states: {self.visited[-6:]}")

    def _task(self, name: str, state: Mapping[str, Any], document: Any) -> Any:
        """The selected result, after as many retries as the state allows."""
        assert state["Resource"] == HTTP
        [policy] = state["Retry"]
        request = self._filled(state["Parameters"], document)
        for attempt in range(1, 2 + policy["MaxAttempts"]):
            try:
                self.sent.append(name)
                answer = self._sent(request, lost=name in self.lost and attempt == 1)
                return self._filled(state["ResultSelector"], answer)
            except Failed as failure:
                if failure.error not in policy["ErrorEquals"] or attempt > policy["MaxAttempts"]:
                    raise
        raise AssertionError("unreachable")

    def _sent(self, request: Mapping[str, Any], *, lost: bool) -> Any:
        places = (request["ApiEndpoint"], request["Authentication"]["ConnectionArn"])
        assert places == ("${ComptrollerUrl}", "${ComptrollerConnectionArn}")
        assert not {header.lower() for header in request["Headers"]} & NOT_TAKEN
        headers = {**request["Headers"], "Authorization": f"Bearer {self.token}"}
        answer = httpx.request(
            request["Method"],
            self.url,
            json=request["RequestBody"],
            headers=headers,
            timeout=WAIT_S_MAX,
            trust_env=False,
        )
        if lost:
            raise Failed("States.Timeout")
        if answer.is_error:
            raise Failed(f"States.Http.StatusCode.{answer.status_code}")
        return {"StatusCode": answer.status_code, "ResponseBody": answer.json()}

    def _holds(self, rule: Mapping[str, Any], document: Any) -> bool:
        if "And" in rule:
            return all(self._holds(one, document) for one in rule["And"])
        [test] = rule.keys() - {"Variable", "Next"}
        try:
            value = self._at(rule["Variable"], document)
        except LookupError:
            return test == "IsPresent" and not rule[test]
        assert test in {"IsPresent", "BooleanEquals", "StringEquals"}, test
        return (
            bool(rule[test])
            if test == "IsPresent"
            else type(value) is type(rule[test]) and value == rule[test]
        )

    def _filled(self, template: Any, document: Any) -> Any:
        """A payload template: what ends in `.$` is a path or an intrinsic function."""
        if not isinstance(template, dict):
            return template
        members = cast("dict[str, Any]", template)
        return {
            key.removesuffix(".$"): self._at(value, document)
            if key.endswith(".$")
            else self._filled(value, document)
            for key, value in members.items()
        }

    def _at(self, path: str, document: Any) -> Any:
        """What a path leads to. Raises LookupError where it leads nowhere."""
        if call := re.fullmatch(r"States\.(Format|Array)\((.*)\)", path):
            words = [self._at(word.strip(), document) for word in call[2].split(",")]
            return words if call[1] == "Array" else words[0].replace("{}", str(words[1]))
        if path.startswith("'"):
            return path.strip("'")
        at: Any = {"Execution": {"Name": self.name}} if path.startswith("$$") else document
        rest = path.lstrip("$")
        assert "".join(part[0] for part in _PART.finditer(rest)) == rest, path
        for part in _PART.finditer(rest):
            at = at[int(part[3])] if part[3] else at[part[1] or part[2]]
        return at
