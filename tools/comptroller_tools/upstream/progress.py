"""Progress that an upstream tells of one request, handed on to whoever waits for its answer."""

from __future__ import annotations

from mcp.shared.dispatcher import ProgressFnT

from comptroller_tools.source import Action
from comptroller_tools.upstream.cleaning import shown

__all__ = ["PROGRESS_MAX", "handed_on"]

PROGRESS_MAX = 200
"""Notes of progress that one request may relay."""


def handed_on(action: Action) -> ProgressFnT:
    """One note at a time and so many at most: what comes while one is on its way is dropped."""
    busy = [False]
    left = [PROGRESS_MAX]

    async def relay(progress: float, total: float | None, message: str | None) -> None:
        if busy[0] or left[0] <= 0:
            return
        busy[0], left[0] = True, left[0] - 1
        try:
            await action.progress(progress, total, shown(message) if message is not None else None)
        finally:
            busy[0] = False

    return relay
