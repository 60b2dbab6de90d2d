"""The pipeline of the rules in force: other rules are taken over between two calls, or not at all.

What commits under rules that are not in force any more is refused by the commit itself, so whatever goes wrong here
nothing is done by old rules.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from comptroller_audit.errors import StoreError
from comptroller_audit.vocabulary import Code, ComptrollerError, Subject
from comptroller_server.call.proposal import AdvertisedTool, Answer, Proposal
from comptroller_server.call.standing import Standing
from comptroller_server.call.watch import Watch
from comptroller_server.pipeline import Pipeline

__all__ = ["Following"]

_log = structlog.stdlib.get_logger()


class Following:
    """Stands where a pipeline does. `change` makes the pipeline of another bundle, given tenant and digest."""

    def __init__(self, pipeline: Pipeline, bundle: str, watch: Watch) -> None:
        self.now: Pipeline = pipeline
        self.bundle: str = bundle
        self.change: Callable[[str, str], Awaitable[Pipeline]] | None = None
        self._watch = watch
        self.why = ""
        """Why the bundle in force cannot be taken over."""
        self._unusable = ""
        self._changing = asyncio.Lock()

    async def call(self, proposal: Proposal) -> Answer:
        """Govern one call by the rules in force. As `Pipeline.call` it raises for cancellation only."""
        tenant = proposal.subject.principal.tenant
        try:
            await self.follow(tenant)
        except StoreError:
            pass  # the pipeline says what that means
        except Exception:  # noqa: BLE001 -- what commits is compared with the rules in force all the same
            _log.exception("defect while the rules in force were looked up")
        answer = await self.now.call(proposal)
        if _code(answer) == Code.BUNDLE_CHANGED:
            with contextlib.suppress(StoreError):  # the next call need not meet what this one did
                await self._watch.look(tenant)
        return answer

    async def follow(self, tenant: str) -> None:
        """Go over to the bundle in force, where it is another. One that cannot be taken over is not tried again."""
        head = await self._watch.fresh(tenant)
        if head.bundle == self.bundle:
            self._unusable = self.why = ""
        if not head.bundle or head.bundle in (self.bundle, self._unusable):
            return
        async with self._changing:
            head = await self._watch.fresh(tenant)
            if self.change is None or head.bundle in (self.bundle, self._unusable):
                return
            try:
                self.now = await self.change(tenant, head.bundle)
            except StoreError:
                raise
            except ComptrollerError as error:
                self._refuse(head.bundle, str(error))
            except Exception:  # noqa: BLE001 -- whatever it is, the rules in force are not known here
                _log.exception("defect while other rules were taken over")
                self._refuse(head.bundle, "an internal error")
            else:
                self._unusable, self.why, self.bundle = "", "", head.bundle
                _log.info("other rules are in force", bundle=head.bundle[:16])

    def is_behind(self, bundle: str) -> bool:
        """Whether `bundle` is in force and cannot be taken over here: everything is refused then."""
        return bool(bundle) and bundle == self._unusable

    def _refuse(self, bundle: str, why: str) -> None:
        self._unusable, self.why = bundle, why
        _log.error(
            "other rules are in force that this process cannot take over: it refuses until it is restarted",
            bundle=bundle[:16],
            why=why,
        )

    def listing(self, subject: Subject) -> Sequence[AdvertisedTool]:
        """The tools this principal may see."""
        return self.now.listing(subject)

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        return self.now.input_schema(name)

    async def standing(self, subject: Subject, call: str) -> Standing | None:
        """Where a call of this principal's stands; None for any other. Raises `StoreError`."""
        return await self.now.standings.of(subject, call)

    async def withdraw(self, subject: Subject, call: str) -> None:
        """Take back a call that waits for people. Raises `StoreError`."""
        await self.now.standings.withdraw(subject, call)


def _code(answer: Answer) -> object:
    refusal = answer.meta.get("comptroller/refusal") if answer.is_error else None
    return refusal.get("code") if isinstance(refusal, dict) else None
