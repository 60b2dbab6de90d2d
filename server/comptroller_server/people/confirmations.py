"""Gates of role `requester`: the person at the client confirms exactly this action, before anything is committed.

Nothing waits for them. The first attempt ends with an `Ask`, whose sealed state names the call and the action; the
answer comes back in another attempt, which decides everything afresh. What they said is their client's word, and
stands in the record as that (`client_asserted`). docs/decisions has why.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import cast

from comptroller_audit.ambient import Clock
from comptroller_audit.calls import CALLS, Existing, Lost
from comptroller_audit.canonical import canonical_bytes, keyed_digest
from comptroller_audit.database import Row
from comptroller_audit.errors import SealBroken
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Moved, Stopped
from comptroller_audit.vocabulary import CallState, Code, JsonObject, Refusal
from comptroller_policy.approvals import Assurance
from comptroller_policy.rules import REQUESTER
from comptroller_server.call.answers import asking_answer, refusal_answer
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.commits import Commits
from comptroller_server.call.decisions import Decisions
from comptroller_server.call.intake import Intake
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.call.proposal import Answer, Ask, Confirmation, Reply
from comptroller_server.call.roads import Roads
from comptroller_server.people.questions import ACKNOWLEDGE, CONFIRM, how_to_decide, no_page, question_for

__all__ = ["ANSWER_S_MAX", "ASKS_MAX", "Asked", "Confirmations"]

ANSWER_S_MAX = 600
"""How long a person may take to answer, seconds."""

ASKS_MAX = 2
"""How often the person is asked about one call: once, and once more when the facts moved meanwhile."""

DECLINED_MAX = 1_000
"""Actions remembered as declined, for ANSWER_S_MAX each."""

STATE_CHARS_MAX = 4_096
_PURPOSE = "confirmation"


class Asked(Exception):
    """Ends the story of an attempt: its answer is a question to the person at the client, and is on record."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _State:
    """What travels with the client, sealed: which call, whose, exactly what was asked, where that is on record.

    With `tells` the person was only told how others decide; whatever comes back then says nothing.
    """

    tells: bool
    call: str
    action: str
    digest: str
    tenant: str
    principal: str
    actor: str
    asks: int
    asked: int
    expires_ms: int


class Confirmations:
    """Asks the person at the client, and knows their answer again. `interactive` are the clients that have one.

    `page` gives the address where a person decides on a call, if there is such a place.
    """

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        commits: Commits,
        decisions: Decisions,
        outcomes: Outcomes,
        intake: Intake,
        release: Roads,
        clock: Clock,
        interactive: frozenset[str],
        agent: str,
        page: Callable[[str], str | None] = no_page,
        declined: dict[tuple[str, str], int] | None = None,
    ) -> None:
        self._store = store
        self._ring = ring
        self._commits = commits
        self._decisions = decisions
        self._outcomes = outcomes
        self._intake = intake
        self._release = release
        self._clock = clock
        self._interactive = interactive
        self._agent = agent
        self._page = page
        self._declined: dict[tuple[str, str], int] = {} if declined is None else declined

    # -- the answer -----------------------------------------------------------------------------------------------

    async def take_up(self, case: Case) -> None:
        """Before step 3 of an attempt that brings an answer: whose it is, and what it says. A no ends the call."""
        given = case.proposal.confirmation
        if given is None:
            return
        self._intake.find(case)
        state = self._opened(case, given)
        if state.tells:
            return
        row, now = await self._store.read(lambda reader: self._read(reader, case.tenant, state.call))
        if state.expires_ms <= now:
            raise Refused(Refusal(Code.CONFIRMATION_EXPIRED, _TOO_LATE, "same_call"))
        if row is not None and row["state"] != CallState.PENDING:
            text = (
                f"This confirmation was used before, by call {state.call}; nothing was done again. Its answer is given "
                f'again by `resume_call` with {{"call": "{state.call}"}}.'
            )
            raise Refused(Refusal(Code.CONFIRMATION_INVALID, text, "never", state.call))
        if row is None:
            case.call = state.call
        if (no := _no(given, state.call)) is not None:
            if no.code is Code.CONFIRMATION_DECLINED and given.reply is not Reply.CANCEL:
                self._remember(case.tenant, state.action)
            raise Refused(no)
        # While its person is asked, a task stands still.
        case.awaited_ms = max(0, case.received_ms - state.expires_ms + ANSWER_S_MAX * 1000)
        case.asks = state.asks
        case.word = {
            "approver": case.subject.principal.subject,
            "roles": [REQUESTER],
            "assurance": Assurance.CLIENT_ASSERTED.value,
            "yes": True,
            "at_ms": case.received_ms,
            "asked": state.asked,
            "digest": state.digest,
        }

    def _opened(self, case: Case, given: Confirmation) -> _State:
        """The state, if it is ours and this caller's. One text for all that it may be instead."""
        try:
            text = self._ring.open_token(_PURPOSE, given.state[:STATE_CHARS_MAX])
            state = _State(**json.loads(text))
        except (SealBroken, ValueError, TypeError):
            raise Refused(_NOT_OURS) from None
        mine = (case.tenant, case.principal_key, case.subject.actor.id)
        may = self._may_tell(case, state.call) if state.tells else self._may_ask(case)
        if (state.tenant, state.principal, state.actor) != mine or not may:
            raise Refused(_NOT_OURS)
        return state

    def _read(self, reader: Reader, tenant: str, call: str) -> tuple[Row | None, int]:
        """The call's row, if it has one, and the time: a clock set back makes no answer good again."""
        head = reader.head(tenant)
        now = self._clock.now_ms()
        return reader.row(tenant, CALLS, call), max(now, head.record_ms) if head is not None else now

    def settle(self, case: Case) -> None:
        """8, first half: decide again with the requester's word, if there is one for exactly this action."""
        if not _asks_requester(case):
            return
        case.confirmed, digest = None, self._digest(case)
        stored = case.resumed.packet.get("confirmation") if case.resumed is not None else None
        for word in (case.word, cast("JsonObject | None", stored)):
            if word is not None and hmac.compare_digest(str(word["digest"]), digest):
                case.confirmed = word
                self._decisions.before(case, confirmed=True)
                return

    def _digest(self, case: Case) -> str:
        """Keyed, over the action as approvals bind it and the words that were shown with it."""
        words = canonical_bytes(case.why)
        key = self._ring.claim_key(case.tenant)
        return keyed_digest(key, "confirmation", case.requested_digest.encode(), words)

    # -- the question ---------------------------------------------------------------------------------------------

    async def ask(self, case: Case) -> Moved | Existing | Lost | None:
        """8: the person at the client first, then those who are not there. Ends in `Asked` or `Refused`."""
        if not _asks_requester(case):
            return await self._ask_others(case)
        refusal = self._why_not(case)
        message = None if refusal is not None else self._question(case)
        outcome = await self._store.commit(case.tenant, self._commits.confirm(case, message, refusal))
        if isinstance(outcome, Stopped):
            if isinstance(outcome.stop, Refusal):
                raise Refused(outcome.stop, outcome.receipts[-1] if outcome.receipts else None)
            return cast("Moved | Existing | Lost", outcome.stop)
        self._intake.quotas.spend(case.principal_key)
        receipt = outcome.receipts[-1]
        ask = Ask(message or "", CONFIRM, self._sealed(case, self._digest(case), receipt.index))
        raise Asked(asking_answer(case, ask, receipt))

    async def _ask_others(self, case: Case) -> Moved | Existing | Lost | None:
        """Store the call for those who are not there. The person who is, is told how they decide."""
        try:
            return await self._outcomes.ask(case)
        except Refused as refused:
            if refused.refusal.code not in _WAITS or refused.receipt is None:
                raise
            if not self._may_tell(case, case.call):
                raise
            self._intake.quotas.spend(case.principal_key)
            page = self._page(case.call)
            state = self._sealed(case, "", refused.receipt.index, tells=True)
            told = Ask(how_to_decide(case), ACKNOWLEDGE, state, page)
            raise Asked(
                replace(refusal_answer(refused.refusal, case.call, refused.receipt), asks=told)
            ) from None

    def _sealed(self, case: Case, digest: str, asked: int, *, tells: bool = False) -> str:
        state = _State(
            tells=tells,
            call=case.call,
            action=case.requested_digest,
            digest=digest,
            tenant=case.tenant,
            principal=case.principal_key,
            actor=case.subject.actor.id,
            asks=case.asks + 1,
            asked=asked,
            expires_ms=self._clock.now_ms() + ANSWER_S_MAX * 1000,
        )
        return self._ring.seal_token(_PURPOSE, json.dumps(asdict(state)).encode())

    def _question(self, case: Case) -> str:
        return question_for(case, self._release, self._agent)

    def _remember(self, tenant: str, action: str) -> None:
        """Spares the person the same question; in memory, because it protects their patience and nothing else."""
        self._declined[tenant, action] = self._clock.now_ms() + ANSWER_S_MAX * 1000
        while len(self._declined) > DECLINED_MAX:
            self._declined.pop(next(iter(self._declined)))

    def _may_ask(self, case: Case) -> bool:
        return case.proposal.can_ask and case.subject.actor.id in self._interactive

    def _may_tell(self, case: Case, call: str) -> bool:
        """Whether the person can be shown how others decide: in a form, or on a page where this client opens one."""
        opens = case.proposal.can_open and self._page(call) is not None
        return self._may_ask(case) or (opens and case.subject.actor.id in self._interactive)

    def _why_not(self, case: Case) -> Refusal | None:
        """Why the person is not asked, if so; what else then is to be done."""
        if not self._may_ask(case):
            return _nobody_to_ask(case, case.subject.actor.id in self._interactive)
        if self._declined.get((case.tenant, case.requested_digest), 0) > self._clock.now_ms():
            text = (
                "The person at the client said no to exactly this a short while ago, so they were not asked again. Do "
                "not propose it again."
            )
            return Refusal(Code.CONFIRMATION_DECLINED, text, "never", case.call)
        if case.asks >= ASKS_MAX:
            text = (
                "What the person confirmed changed again before it could be done, so nothing was done. Read the record "
                "again, and propose the call again if it is still right."
            )
            return Refusal(Code.CONFIRMATION_STALE, text, "same_call", case.call)
        return None


_WAITS = frozenset({Code.APPROVAL_PENDING, Code.RECORD_CHANGED})


def _asks_requester(case: Case) -> bool:
    return any(gate.role == REQUESTER for gate in case.decision.gates)


def _no(given: Confirmation, call: str) -> Refusal | None:
    if given.reply is Reply.NO_ANSWER:
        return Refusal(Code.CONFIRMATION_EXPIRED, _TOO_LATE, "same_call", call)
    if given.reply is Reply.ACCEPT and given.confirmed:
        return None
    text = "The person at the client did not confirm this call, so nothing was done. Do not propose it again."
    return Refusal(Code.CONFIRMATION_DECLINED, text, "never", call)


def _nobody_to_ask(case: Case, is_interactive: bool) -> Refusal:
    why = (
        "this client cannot show them a form (it declares no elicitation)"
        if is_interactive
        else "this client is not one that has a person (`interactive: true` in the configuration)"
    )
    others = sorted(
        {f"{gate.count} with role {gate.role}" for gate in case.decision.gates if gate.role != REQUESTER}
    )
    after = f" After that it also needs a person's approval ({' and '.join(others)})." if others else ""
    return Refusal(
        Code.CONFIRMATION_NEEDED,
        f"The person this is done for must confirm it first, and {why}. Nothing has been done, and nobody else can "
        f"confirm it. Tell the person to use a client that can ask them.{after}",
        "person",
        case.call,
        case.decision.policies,
    )


_TOO_LATE = "Nobody confirmed the call in time, so nothing was done. Propose it again if it is still needed."
_NOT_OURS = Refusal(
    Code.CONFIRMATION_INVALID,
    "What was sent as the person's confirmation is not an answer to a question of ours for this call. Nothing was "
    "done. Propose the call again without it.",
    "same_call",
)
