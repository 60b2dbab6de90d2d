"""Checks of your own around a call: typed Python functions that look at it and say whether it may go on.

    from comptroller_tools.checks import CallView, CheckVerdict, Failed, Passed

    def no_friday_refunds(call: CallView, *, weekday: int = 4) -> CheckVerdict:
        if weekday_of(call.value("facts.invoice.issued_at")) == weekday:
            return Failed("Nothing is refunded on this day.")
        return Passed()

The first parameter gets the call, typed `CallView`, or `ResultView` for a check that runs after it. Every further
parameter is an option of the config, by name, checked against its type when the configuration is loaded. The function
may be `async`; a sync one runs on a thread. Whatever is not `Passed()` stops the call: before it, nothing is done;
after it, `Failed` says that what was done is wrong and `Unknown` that nobody can tell. docs/checks.md is the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias, TypeGuard, cast

__all__ = [
    "CallView",
    "CheckVerdict",
    "Citation",
    "DataPath",
    "Failed",
    "Frozen",
    "Passed",
    "ResultView",
    "Unknown",
    "frozen",
]


@dataclass(frozen=True, slots=True)
class Passed:
    """The call may go on."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The call is wrong. `reason` is one sentence for the agent and the record; it is quoted, capped and redacted."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It cannot be told. Counts like `Failed` before the call; after it, the call is in doubt."""

    reason: str


CheckVerdict: TypeAlias = Passed | Failed | Unknown
"""What a check returns. One that returns anything else, raises, or takes too long has not passed."""

Frozen: TypeAlias = Any
"""A JSON value that cannot be changed: objects are read-only mappings, arrays are tuples."""


class _Path:
    """Marks an option that names a value of the call."""


DataPath = Annotated[str, _Path]
"""An option that is a path, such as `input.amount_usd` or `facts.invoice.paid_usd`: read it with `CallView.value`.

The roots are `input`, `facts` and `history`; after the call also `output` and `after`, which holds the facts read again.
Paths are checked against the tools' schemas when the configuration is loaded.
"""


@dataclass(frozen=True, slots=True)
class Citation:
    """A record that the agent cites: one that was read and released in this task, at that version."""

    ref: str
    kind: str
    key: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """One call as a check sees it, before it runs. `facts` and `history` hold what the check declares, no more."""

    tool: str
    input: Mapping[str, Frozen]
    facts: Mapping[str, Frozen] = field(default_factory=lambda: MappingProxyType({}))
    history: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    citations: tuple[Citation, ...] = ()

    def value(self, path: str) -> Frozen:
        """The value at a dotted path. Raises `KeyError` with the path when any part of it is missing."""
        root, _, rest = path.partition(".")
        roots = self._roots()
        if root not in roots:
            raise KeyError(path)
        if root == "history":  # its names have dots in them
            return self.history[rest]
        found: Any = roots[root]
        for part in rest.split(".") if rest else ():
            found = _step(found, part, path)
        return found

    def _roots(self) -> dict[str, Any]:
        return {"input": self.input, "facts": self.facts, "history": self.history}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView(CallView):
    """One call as a check sees it after it ran. `output` is what the tool returned, `after` the facts read again."""

    output: Frozen = None
    after: Mapping[str, Frozen] = field(default_factory=lambda: MappingProxyType({}))

    def _roots(self) -> dict[str, Any]:
        return {
            "input": self.input,
            "facts": self.facts,
            "history": self.history,
            "output": self.output,
            "after": self.after,
        }


def frozen(value: Any) -> Frozen:
    """A copy of a JSON value that nobody can change."""
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        return MappingProxyType({key: frozen(member) for key, member in members.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in cast("list[Any]", value))
    return value


def _is_array(value: Any) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _step(value: Any, part: str, path: str) -> Any:
    if isinstance(value, Mapping) and part in value:
        return cast("Mapping[str, Any]", value)[part]
    if _is_array(value) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    raise KeyError(path)
