"""A call in hand: everything the pipeline knows about one attempt, filled in step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from comptroller_audit.calls import Claim
from comptroller_audit.database import Row
from comptroller_audit.tokens import TokenBook
from comptroller_audit.unit import Receipt
from comptroller_audit.vocabulary import CallState, Json, JsonObject, Refusal, Subject
from comptroller_budgets.limits import Charge, Scope
from comptroller_budgets.metering import CallUsage
from comptroller_policy.declarations import Origin
from comptroller_policy.model import Decision, Gate, Record, Verdict
from comptroller_policy.rollout import Draw
from comptroller_server.call.edits import Edited
from comptroller_server.call.proposal import Proposal
from comptroller_server.call.took import Took
from comptroller_server.call.traces import Trace
from comptroller_server.checks.judged import Judged
from comptroller_server.tasks.built_in_tools import BUILT_INS
from comptroller_server.tasks.taskbook import TaskView
from comptroller_tools.catalogue import Tool
from comptroller_tools.check_running import Checked
from comptroller_tools.parts import Part, Place
from comptroller_tools.questions import Patience
from comptroller_tools.refs import NewRef
from comptroller_tools.source import Outcome
from comptroller_tools.verification import VerificationResult

__all__ = [
    "UNDECIDED",
    "Basis",
    "Cached",
    "Case",
    "Compensates",
    "Cut",
    "ReadAt",
    "Refused",
    "Resumed",
    "Taken",
]


UNDECIDED = Decision(Verdict.DENY, errors=("not decided",))
"""No decision yet: a deny, so that a skipped step cannot allow anything."""


class Refused(Exception):
    """Ends the story of a call with a refusal. `receipt` is set when it is on record already."""

    def __init__(self, refusal: Refusal, receipt: Receipt | None = None) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal
        self.receipt = receipt


@dataclass(frozen=True, slots=True)
class Basis:
    """What a decision read that could move: history revisions and the switch sequence."""

    history: Mapping[str, int] = field(default_factory=dict[str, int])
    switch_seq: int = 0


@dataclass(frozen=True, slots=True)
class Resumed:
    """A stored proposal that is being run: its call row, its approval row and the packet that was stored."""

    row: Row
    approval: Row
    packet: JsonObject


@dataclass(frozen=True, slots=True)
class Compensates:
    """The call that a case reverses, the attempt that made it, and what is wrong with it, in our own words.

    `ordered_by` is the person who wants a good call reversed; empty for one that was found to be wrong.
    """

    call: str
    tool: str
    attempt: str | None
    task: str
    wrong: str = ""
    retry: str = "person"
    approvals: tuple[JsonObject, ...] = ()
    ordered_by: str = ""


@dataclass(frozen=True, slots=True)
class ReadAt:
    """When a source was asked: seconds of the clock that is never set, milliseconds of the one on the wall."""

    monotonic: float
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Cached:
    """A result that call `call` had read at `read_ms`, `age_s` seconds ago; `text` is JSON, released to nobody."""

    text: str
    call: str
    read_ms: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A later part of a long result, asked for with `result_more`: of result `name`, from where part `number` begins."""

    name: str
    number: int
    starts: Mapping[Place, int]


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a long result that an answer tells; `handle` asks for what is left, within `lives_s` seconds."""

    part: Part
    handle: str
    number: int
    lives_s: float

    @property
    def more(self) -> str | None:
        """What to give to `result_more` for the next part; None when this is the last."""
        return f"{self.handle}-{self.number + 1}" if self.part.left else None

    @property
    def told(self) -> JsonObject:
        """The part as structured content."""
        if not self.part.left:
            return self.part.shown
        return {**self.part.shown, "more": {"more": self.more, "left": dict(self.part.left)}}

    @property
    def in_packet(self) -> JsonObject:
        return {"number": self.number, "left": dict(self.part.left)}


@dataclass(slots=True)
class Case:
    """One attempt of one call. `call` is the call's id: a new one, or the target of a resume."""

    proposal: Proposal
    call: str
    attempt: str
    received_ms: int
    took: Took
    principal_key: str
    task: TaskView
    subject: Subject = field(init=False)
    tenant: str = field(init=False)
    usage: CallUsage = field(default_factory=CallUsage)
    window_ms: int = 0
    """The moment that says which hour, day and month count this call; never before the newest record."""
    book: TokenBook | None = None
    """The tokens of its task, where anything can become one; it notes what this case's answers give."""
    tool: Tool | None = None
    many: Tool | None = None
    """The read whose batch form was called, in place of a tool."""
    resumed: Resumed | None = None
    compensates: Compensates | None = None
    # 4 validate
    arguments: JsonObject = field(default_factory=dict[str, Json])
    """As they are sent: with values in place of tokens, once step 4 has resolved them."""
    tokens_used: tuple[str, ...] = ()
    searched: JsonObject | None = None
    """Arguments in which nothing was found that must not be sent; the very object."""
    argument_bytes: bytes = b"{}"
    output_bytes: bytes | None = None
    why: JsonObject | None = None
    citations: list[JsonObject] = field(default_factory=list[JsonObject])
    uncited: Refusal | None = None
    """What is wrong with the citations of a proposal that may be a repeat; a new call with it never opens."""
    claims: tuple[Claim, ...] = ()
    record: Record | None = None
    guard: str | None = None
    # 6 look up
    basis: Basis = field(default_factory=Basis)
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    may_tell_facts: Callable[[], bool] = field(default=lambda: True)
    """Whether the caller could have read the facts itself; if not, they decide and no answer speaks of them."""
    history: dict[str, int] = field(default_factory=dict[str, int])
    derived: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    provenance: dict[str, Origin] = field(default_factory=dict[str, Origin])
    """Where the values of arguments come from, of those that policy asks about."""
    doubtful: bool = True
    """Whether what it writes must not be believed when it is read back: some value came from nobody who is trusted."""
    draw: Draw | None = None
    """Whether the call is in the canary; None where no rollout applies."""
    # 7 decide, 8 approve
    decided_ms: int = 0
    decision: Decision = field(default=UNDECIDED)
    checked: tuple[Checked, ...] = ()
    judged: tuple[Judged, ...] = ()
    checks_deny: bool = False
    """A check or a judge said a definite no: like a deny, it ends a call that people had approved."""
    observed_until_ms: int | None = None
    """In observe mode, when that ends; None where every rule is in force for this call."""
    observed: dict[str, Decision] = field(default_factory=dict[str, Decision])
    """What rules would have stopped: by `early`, `before` and `after`."""
    reversal: Decision | None = None
    """What was decided ahead about the call that would reverse this one."""
    approvals: dict[str, int] = field(default_factory=dict[str, int])
    gates: tuple[Gate, ...] = ()
    bound: JsonObject = field(default_factory=dict[str, Json])
    requested_digest: str = ""
    """Keyed, of `bound`: of the action as it would run now, whoever wrote it."""
    edited: Edited | None = None
    """What the agent had proposed, where people changed that since."""
    edit_told: str = ""
    """What they changed, as the model may read it."""
    changed: tuple[str, ...] = ()
    word: JsonObject | None = None
    """What the client says that its person said; `digest` says of exactly what action."""
    confirmed: JsonObject | None = None
    """The requester's word for exactly this action, as records hold it."""
    asks: int = 0
    """How often the person at the client was asked about this call already."""
    awaited_ms: int = 0
    """How long they took to answer, just before this attempt."""
    # 9 commit
    charges: tuple[Charge, ...] = ()
    cover: tuple[Charge, ...] = ()
    """What the call that would reverse this one may cost."""
    committed: bool = False
    deadline: float = 0.0
    action_receipt: Receipt | None = None
    # 10 to 14
    cached: Cached | None = None
    """What takes the place of asking the source."""
    taken: Taken | None = None
    """The part that is asked for, where the call is a `result_more`."""
    marks: Mapping[str, int] | None = None
    """What stood about its source's side effects before a read whose result may be kept; None where it may not."""
    read_at: ReadAt | None = None
    tries: int = 0
    questions: list[JsonObject] = field(default_factory=list[JsonObject])
    """What its source asked of the client on the way, as the record holds it."""
    patience: Patience | None = None
    """The time that went by while the client was asked, where it can be asked."""
    outcome: Outcome | None = None
    problem: Refusal | None = None
    sound: bool = False
    """The effect happened and the output is what the tool declares, whether or not it is true."""
    wrong: str = ""
    """What steps 11 and 12 found wrong, without what is done about it."""
    owes: bool = False
    """The effect happened, is wrong, and is going to be reversed."""
    verification: VerificationResult | None = None
    read_back: dict[str, Any] = field(default_factory=dict[str, Any])
    checked_after: tuple[Checked, ...] = ()
    decision_after: Decision | None = None
    refs: tuple[NewRef, ...] = ()
    released: Json = None
    """The output as the model may see it."""
    cut: Cut | None = None
    """The part of it that is told, where it is too long to be told whole."""
    kept: Json = None
    """The output as the record holds it."""
    answer_text: str | None = None
    """What the agent will read of a call that was done, once it is known."""
    withheld: int = 0
    state: CallState = CallState.PROPOSED
    receipt: Receipt | None = None
    trace: Trace = field(default_factory=Trace)
    likeness: tuple[Proposal, bytes] | None = None
    """What tells an identical call, and the proposal it was worked out from."""

    def __post_init__(self) -> None:
        self.subject = self.proposal.subject
        self.tenant = self.subject.tenant

    @property
    def waited_ms(self) -> int:
        """How long its client was being asked on the way, milliseconds."""
        return round(self.patience.waited_s * 1000) if self.patience is not None else 0

    @property
    def told(self) -> Json:
        """What of the released output the answer holds."""
        return self.cut.told if self.cut is not None else self.released

    @property
    def stopped_by(self) -> tuple[str, str]:
        """The principal and the task whose switches stop this call; what reverses a call heeds neither."""
        return (self.principal_key, self.task.id) if self.compensates is None else ("", "")

    @property
    def reversible(self) -> bool:
        """Whether what this call did can be reversed, should it be wrong."""
        return self.sound and self.tool_in_hand.compensation is not None and self.compensates is None

    @property
    def tool_in_hand(self) -> Tool:
        """The tool, from step 3 on."""
        assert self.tool is not None
        return self.tool

    @property
    def scopes(self) -> dict[Scope, str]:
        """For whom this call is counted, from step 3 on."""
        return {
            Scope.TASK: self.task.id,
            Scope.PRINCIPAL: self.principal_key,
            Scope.ACTOR: self.subject.actor.id,
            Scope.TOOL: self.tool_in_hand.name,
            Scope.TENANT: self.tenant,
        }

    @property
    def built_in(self) -> str:
        """The name of the built-in tool that was called, or nothing. Other names are only text."""
        return self.proposal.tool if self.proposal.tool in BUILT_INS else ""

    @property
    def scope(self) -> dict[str, Any]:
        """What `{path}` references may name."""
        return {
            "input": self.arguments,
            "facts": self.facts,
            "call": {"id": self.call, "effect_key": self.call},
            "task": {"id": self.task.id},
        }
