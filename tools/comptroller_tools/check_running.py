"""Running checks within bounds. Whatever a check does but return a verdict in time is `Unknown`, and stops the call."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comptroller_tools.check_loading import BoundCheck
from comptroller_tools.checks import CallView, CheckVerdict, Failed, Passed, Unknown
from comptroller_tools.threads import WorkerThreads

__all__ = ["CheckRuns", "Checked"]

THREADS_MAX = 32
"""Sync checks that may run at once, those that hang included."""
TASKS_MAX = 128
"""Async checks that may run at once, those that ignore cancellation included."""
REASON_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Checked:
    """What one check said of one call. `verdict` is `passed`, `failed` or `unknown`."""

    check: str
    verdict: str
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


class CheckRuns:
    """The slots that checks run in. Nothing queues: without a free slot a check is `Unknown` at once."""

    def __init__(self, threads_max: int = THREADS_MAX, tasks_max: int = TASKS_MAX) -> None:
        self._threads = WorkerThreads("check", threads_max)
        self._tasks_max = tasks_max
        self._running: set[asyncio.Task[CheckVerdict]] = set()

    async def run(self, check: BoundCheck, view: CallView) -> Checked:
        """The check's verdict on the view. Raises nothing but for cancellation."""
        try:
            verdict = await (self._on_the_loop if check.is_async else self._on_a_thread)(check, view)
        except Exception as error:  # noqa: BLE001 -- fail closed: a defect here is no pass
            verdict = Unknown(f"it could not be run ({type(error).__name__})")
        match verdict:
            case Passed():
                return Checked(check.rule.python, "passed")
            case Failed(reason):
                return Checked(check.rule.python, "failed", reason[:REASON_CHARS_MAX])
            case Unknown(reason):
                return Checked(check.rule.python, "unknown", reason[:REASON_CHARS_MAX])

    def close(self) -> None:
        """Let idle threads end and cancel what runs on the loop."""
        self._threads.close()
        for task in set(self._running):
            task.cancel()

    async def _on_the_loop(self, check: BoundCheck, view: CallView) -> CheckVerdict:
        if len(self._running) >= self._tasks_max:
            return _NO_SLOT
        task = asyncio.create_task(_enter_async(check, view))
        # The set keeps a task that ignores cancellation alive, and its slot taken, until it ends.
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            done, _ = await asyncio.wait({task}, timeout=check.rule.timeout_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if done:
            return task.result()
        task.cancel()
        return _late(check)

    async def _on_a_thread(self, check: BoundCheck, view: CallView) -> CheckVerdict:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[CheckVerdict] = loop.create_future()
        carried = contextvars.copy_context()

        def deliver(verdict: CheckVerdict) -> None:
            if not answer.done():
                answer.set_result(verdict)

        def job() -> Callable[[], None]:
            verdict = carried.run(_enter_sync, check, view)
            return lambda: _post(loop, deliver, verdict)

        if not self._threads.start(job):
            return _NO_SLOT
        done, _ = await asyncio.wait({answer}, timeout=check.rule.timeout_s)
        return answer.result() if done else _late(check)


_NO_SLOT = Unknown("every slot for checks is taken")


def _late(check: BoundCheck) -> Unknown:
    return Unknown(f"it gave no verdict within {check.rule.timeout_s:g} seconds")


def _post(
    loop: asyncio.AbstractEventLoop, deliver: Callable[[CheckVerdict], None], verdict: CheckVerdict
) -> None:
    try:
        loop.call_soon_threadsafe(deliver, verdict)
    except RuntimeError:  # the loop is closed: there is nobody to tell
        return


async def _enter_async(check: BoundCheck, view: CallView) -> CheckVerdict:
    try:
        return _verdict(await check.function(view, **check.options))
    except asyncio.CancelledError:
        return Unknown("it was cancelled")
    except BaseException as error:  # noqa: BLE001 -- SystemExit and KeyboardInterrupt would end the server
        return _raised(error)


def _enter_sync(check: BoundCheck, view: CallView) -> CheckVerdict:
    try:
        return _verdict(check.function(view, **check.options))
    except BaseException as error:  # noqa: BLE001 -- on this thread nothing else can be meant for us
        return _raised(error)


def _verdict(returned: Any) -> CheckVerdict:
    """`returned` if it is a verdict: exactly one of ours, with a text for its reason."""
    if isinstance(returned, Passed):
        return returned
    if isinstance(returned, Failed | Unknown) and type(returned.reason) is str:
        return returned
    if inspect.iscoroutine(returned):
        returned.close()
    return Unknown(f"it returned {type(returned).__name__[:40]}, which is no verdict")


def _raised(error: BaseException) -> Unknown:
    # Only the type: an exception's message can carry anything, a record or a password included.
    return Unknown(f"it raised {type(error).__name__[:40]}")
