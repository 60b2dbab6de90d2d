"""The one seam to the world: `Source.call(action, deadline) -> Outcome`.

A source never decides, retries or records. It says what it did, what it did not do, or that it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from comptroller_tools.questions import NOBODY, Asker

__all__ = ["CANCELLED", "Action", "EffectHappened", "Log", "Outcome", "Progress", "Source", "ToolDefinition"]

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
"""(progress, total, message): relayed to the client when it asked for progress, else a no-op."""


async def no_progress(progress: float, total: float | None, message: str | None) -> None:
    """The default `Progress`: nobody asked."""


Log = Callable[[str, Any], Awaitable[None]]
"""(level, data): a log message of an upstream about this very call, JSON values. `upstream.news` has the levels."""


async def no_log(level: str, data: Any) -> None:
    """The default `Log`: nobody asked."""


CANCELLED = "cancelled"
"""The key in `Outcome.meta` of a call that was given up because its caller did."""


class EffectHappened(StrEnum):
    """What a source knows about its side effect. UNKNOWN puts a side-effecting call in doubt."""

    NONE = "none"
    DONE = "done"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool as its source defines it. `digest` is the SHA-256 (hex) of the canonical bytes of the rest.

    `output_schema` is None when the source declares none. `stores_effect_key` is true when the source keeps
    the action's `effect_key` with what it wrote, so that recovery can look the effect up.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    digest: str
    stores_effect_key: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """Exactly what is sent to a source. `effect_key` is the call id: the same on every safe retry of one call.

    `log_level` is the least severe log message that is wanted on the way, None for none. `whom` tells principals apart
    and says nothing of them; look-ups of Comptroller's own have none. `given_up` is done when nobody waits for the answer
    any more; a source may then stop, and says in `Outcome.meta` that it was `CANCELLED`. `asker` is who can be asked on the way.
    `traceparent` is the W3C trace context that a source may tell of, empty for none.
    """

    tool: str
    arguments: Mapping[str, Any]
    effect_key: str
    progress: Progress = no_progress
    log: Log = no_log
    log_level: str | None = None
    whom: str = ""
    given_up: asyncio.Future[None] | None = None
    asker: Asker = NOBODY
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back. `value` is the structured output (JSON values), `error` a text safe to log.

    `effect` is NONE only when the source knows nothing happened. For a failed call `value` is None.
    `told_model` is an error text the tool's author wrote for the model (from `NotDone`). `running` ends when a call
    that was given up on really ends; until then it keeps its slot.
    """

    effect: EffectHappened
    value: Any = None
    error: str | None = None
    told_model: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    running: asyncio.Future[Outcome] | None = None


class Source(Protocol):
    """A place tools come from. Implementations: `functions.FunctionSource`; later MCP and HTTP."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Transport, module or endpoint and credential reference; part of the approval digest."""
        ...

    def definitions(self) -> Mapping[str, ToolDefinition]: ...

    async def call(self, action: Action, deadline: float) -> Outcome:
        """Run `action`, giving up at `deadline` (monotonic seconds). Never raises but for cancellation."""
        ...

    async def close(self) -> None: ...
