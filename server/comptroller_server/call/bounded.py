"""The one way to ask a source anything: bounded in time, and whatever comes of it is an outcome."""

from __future__ import annotations

import asyncio
from typing import Final

from comptroller_audit.ambient import Clock
from comptroller_tools.source import Action, EffectHappened, Outcome, Source

__all__ = ["NO_ANSWER", "ask"]

SOURCE_GRACE_S: Final = 2.0
"""How far past its deadline a source may answer before we stop listening."""
NO_ANSWER: Final = "no answer by the deadline"


async def ask(source: Source, action: Action, deadline: float, clock: Clock) -> Outcome:
    """What `source` makes of `action` by `deadline` (monotonic seconds). Raises nothing but `CancelledError`.

    There is no await before the source is entered: the caller's last check still holds then.
    """
    try:
        async with asyncio.timeout(max(0.0, deadline - clock.monotonic()) + SOURCE_GRACE_S) as limit:
            if (patience := action.asker.patience) is None:
                return await source.call(action, deadline)
            with patience.moves(limit):
                return await source.call(action, deadline)
    except TimeoutError:
        return Outcome(EffectHappened.UNKNOWN, error=NO_ANSWER)
    except Exception as error:  # noqa: BLE001 -- a source must not raise; if it does, its effect is not known
        return Outcome(EffectHappened.UNKNOWN, error=f"the source raised {type(error).__name__}")
