"""Steps 1 to 4: receive, identify, find, validate. Nothing is looked up yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.calls import Claim
from comptroller_audit.canonical import canonical_bytes, keyed_digest
from comptroller_audit.patterns import CREDENTIALS
from comptroller_audit.redaction import Audience
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Store
from comptroller_audit.unit import Moved
from comptroller_audit.vocabulary import Code, Effect, Json, JsonObject, Refusal, Subject
from comptroller_budgets.tasks import task_unknown
from comptroller_policy.engine import Bundle
from comptroller_server.call.books import Books
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.citations import Citations
from comptroller_server.call.fitting import fit
from comptroller_server.call.metering import META_USAGE, Metering
from comptroller_server.call.naming import META_REQUEST, META_TASK, call_row, check_names, named_task
from comptroller_server.call.parts import MORE, MORE_SCHEMA, MORE_TEXT, Parts
from comptroller_server.call.proposal import AdvertisedTool, Proposal
from comptroller_server.call.quotas import Quotas
from comptroller_server.call.roads import Roads
from comptroller_server.call.took import Took
from comptroller_server.call.upstream_words import check_quarantine
from comptroller_server.tasks.built_in_tools import BUILT_INS
from comptroller_server.tasks.taskbook import TaskBook, TaskView
from comptroller_tools.batches import Batch
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.upstream.definitions import Kind
from comptroller_tools.validation import check_why, split_why

__all__ = ["RESUME", "Intake", "IntakeTerms"]

RESUME = "resume_call"
META_KEY = "comptroller/idempotency-key"
META_WHY = "comptroller/why"
KEY_CHARS_MAX = 200
_OUR_META = "comptroller/"
_META_KNOWN = frozenset({META_KEY, META_REQUEST, META_TASK, META_USAGE, META_WHY})
_RESUME_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"call": {"type": "string", "description": "The call id from the pending answer."}},
    "required": ["call"],
    "additionalProperties": False,
}
_RESUME_TEXT = (
    "Run a call that was waiting for a person's approval, exactly as it was proposed. Give the call id from the "
    "pending answer. It runs once; without approval it answers how things stand."
)


@dataclass(frozen=True, slots=True)
class IntakeTerms:
    replay_window_ms: int


class Intake:
    """Turns a proposal into a case, or refuses it before anything is looked up."""

    def __init__(
        self,
        catalogue: Catalogue,
        bundle: Bundle,
        store: Store,
        ring: KeyRing,
        taskbook: TaskBook,
        books: Books,
        quotas: Quotas,
        citations: Citations,
        release: Roads,
        clock: Clock,
        ids: Ids,
        terms: IntakeTerms,
        metering: Metering,
        parts: Parts,
    ) -> None:
        self.parts = parts
        self._catalogue = catalogue
        self._bundle = bundle
        self._store = store
        self._ring = ring
        self._taskbook = taskbook
        self._books = books
        self.quotas = quotas
        self.citations = citations
        self._release = release
        self._clock = clock
        self._ids = ids
        self._terms = terms
        self.metering = metering
        self._advertised = [
            (tool, [self._advertise(tool)] + ([self._advertise(tool.batch)] if tool.batch else []))
            for tool in catalogue
            if tool.kind is Kind.TOOL
        ]
        metering.listing = self.listing
        self._key_of = lru_cache(maxsize=10_000)(self._principal_key)

    async def receive(self, proposal: Proposal) -> Case:
        """1 and 2: an attempt id, the principal's key, the task and its step."""
        subject = proposal.subject
        principal_key = self._key_of(subject.tenant, subject.principal.id)
        case = Case(
            proposal=proposal,
            call=self._ids.uuid7(),
            attempt=self._ids.uuid7(),
            received_ms=self._clock.now_ms(),
            took=Took(self._clock.monotonic),
            principal_key=principal_key,
            task=await self._task(proposal, principal_key),
        )
        try:
            await self._books.open(case)
        except BaseException:
            self._taskbook.answered(case.tenant, case.task)
            raise
        proposal.begun(case.call)
        return case

    def answered(self, case: Case, text: str) -> None:
        self.metering.answered(case, text)
        self._taskbook.answered(case.tenant, case.task)

    async def look_again(self, case: Case, moved: Moved) -> None:
        """After a basis moved: the task as it is now. The rest is read again by the steps that follow.

        In another task nothing cited there counts; raises `Refused` where citations are missing then.
        """
        if moved.what == "task" and case.resumed is not None:
            raise Refused(Refusal(Code.CALL_UNKNOWN, _NO_SUCH_CALL, call=case.call))
        task = await self._taskbook.look_again(case.tenant, case.task)
        elsewhere = task.id != case.task.id
        if elsewhere:
            await self._books.moved(case, task)
        case.task = task
        if elsewhere:
            case.uncited = None
            await self.citations.read(case)

    def entered(self, case: Case) -> None:
        """A commit has written the task."""
        self.metering.charged(case)
        self._taskbook.entered(case.tenant, case.task)

    def find(self, case: Case) -> None:
        """3: the tool, as this principal may see it. Hidden and missing answer alike.

        Here, before anything is read for them, those stop whose fruitless attempts of the minute are used up.
        """
        if (refusal := self.quotas.check(case.principal_key)) is not None:
            raise Refused(refusal)
        _check_meta(case.proposal)
        self.metering.receive(case)
        name, kind = case.proposal.tool, case.proposal.kind
        if case.task.is_unknown:
            raise Refused(task_unknown())
        if kind is Kind.TOOL and name == RESUME:
            return
        if kind is Kind.TOOL and name == MORE and self._sees_parts(case.subject):
            self.parts.take_up(case)
            return
        if kind is Kind.TOOL and name in BUILT_INS and self._sees_any(case.subject):
            return
        if (
            kind is Kind.TOOL
            and (many := self._catalogue.batched(name)) is not None
            and self._bundle.visible(case.subject, many.name)
        ):
            case.many = many
            return
        tool = self._catalogue.find(name)
        if tool is None or tool.kind is not kind or not self._bundle.visible(case.subject, name):
            raise Refused(Refusal(Code.UNKNOWN_TOOL, "There is no such tool; list the tools again.", "never"))
        case.tool = tool
        case.arguments = case.proposal.arguments
        check_quarantine(tool, case.call)

    async def validate(self, case: Case) -> None:
        """4: `why`, arguments, canonical bytes, outgoing secrets, citations, and which call this is."""
        tool = case.tool_in_hand
        # First of all: the sentences below name what was wrong, and unknown keys are part of that.
        if not self._refuse_secrets(tool, [case.proposal.arguments, case.proposal.meta.get(META_WHY)]):
            case.searched = case.proposal.arguments
        self._split_why(case, tool)
        await self._books.resolve(case)
        self.fit(case)
        if case.resumed is None and not tool.is_read:
            case.claims = self._claims(case, tool)
        await self.citations.read(case)

    def fit(self, case: Case) -> None:
        """Arguments against the schema of what callers give, then as they are sent: in canonical bytes, and the record
        they act on. Of stored ones, what the operator gives is what is configured now."""
        tool = case.tool_in_hand
        own = tool.shaping.own(case.arguments) if case.resumed or case.taken else case.arguments
        fit(case, own)
        case.guard = self._guard(case, tool)

    def refit(self, case: Case) -> None:
        """4 for a stored proposal whose arguments a person has changed: they pass what a proposal's own have passed."""
        self._refuse_secrets(case.tool_in_hand, [case.arguments])
        self.fit(case)
        case.claims = self._claims(case, case.tool_in_hand)
        self.citations.still_enough(case)

    def listing(self, subject: Subject) -> Sequence[AdvertisedTool]:
        tools = [
            form
            for tool, forms in self._advertised
            for form in forms
            if self._bundle.visible(subject, tool.name) and tool.quarantine() is None
        ]
        if any(tool.effect is not Effect.READ for tool in tools):
            tools.append(AdvertisedTool(RESUME, _RESUME_TEXT, _RESUME_SCHEMA, None, Effect.EXECUTE))
        if self._sees_parts(subject):
            tools.append(AdvertisedTool(MORE, MORE_TEXT, MORE_SCHEMA, None, Effect.READ))
        if tools:
            tools += [
                AdvertisedTool(t.name, t.description, t.schema, None, t.effect) for t in BUILT_INS.values()
            ]
        return tools

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        if name in (RESUME, MORE):
            return _RESUME_SCHEMA if name == RESUME else MORE_SCHEMA
        if (built_in := BUILT_INS.get(name)) is not None:
            return built_in.schema
        if (many := self._catalogue.batched(name)) is not None and many.batch is not None:
            return many.batch.advertised_input
        tool = self._catalogue.find(name)
        return tool.advertised_input if tool else None

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _task(self, proposal: Proposal, principal_key: str) -> TaskView:
        """The task a call names, in `_meta` or in the header; else the one of the call it resumes; else the current.

        For those whose fruitless attempts are used up nothing is read by name.
        """
        subject, begin = proposal.subject, self._taskbook.begin
        named = named_task(proposal)
        if self.quotas.check(principal_key) is not None:
            return await begin(subject, principal_key)
        if named is None and proposal.tool == RESUME:
            wanted = proposal.arguments.get("call")
            row = await self._store.read(lambda reader: call_row(reader, subject.tenant, wanted))
            view = await begin(subject, principal_key, row["task"] if row is not None else None)
            return replace(view, is_unknown=False)
        return await begin(subject, principal_key, named)

    def _sees_any(self, subject: Subject) -> bool:
        return any(self._bundle.visible(subject, tool.name) for tool in self._catalogue)

    def _sees_parts(self, subject: Subject) -> bool:
        """Whether a result may come in parts, so that there is something to ask the rest of."""
        return any(tool.parts and self._bundle.visible(subject, tool.name) for tool in self._catalogue)

    def _advertise(self, tool: Tool | Batch) -> AdvertisedTool:
        """A tool's description may come from anywhere; no secret and no credential stands in its schemas either."""

        def shown(schema: Mapping[str, Any]) -> Mapping[str, Any]:
            released = self._release.release(cast("Json", dict(schema)), Audience.RECORD).value
            return released if isinstance(released, dict) else {"type": "object"}

        return AdvertisedTool(
            tool.name,
            self._release.text(tool.description, Audience.MODEL),
            shown(tool.advertised_input),
            shown(tool.advertised_output) if tool.advertised_output is not None else None,
            Effect.READ if isinstance(tool, Batch) else tool.effect,
        )

    def _principal_key(self, tenant: str, principal: str) -> str:
        return keyed_digest(self._ring.claim_key(tenant), "principal", principal.encode())[:32]

    def _refuse_secrets(self, tool: Tool, sent: Json) -> frozenset[str]:
        """Configured secrets go to no tool; what looks like a credential to none whose arguments leave the house.

        Returns the kinds of what was found and may be sent.
        """
        found = self._release.secrets_in(sent)
        if found - {CREDENTIALS.value}:
            text = "The arguments contain a secret of this installation, so they are not sent anywhere."
            raise Refused(Refusal(Code.SECRET_IN_ARGUMENTS, text, "other_arguments"))
        if found and tool.is_outbound:
            text = (
                "The arguments contain what looks like a key, a token or a password, so they are not sent. "
                "Leave it out, or hand the task to a person."
            )
            raise Refused(Refusal(Code.SECRET_IN_ARGUMENTS, text, "other_arguments"))
        return found

    def told(self, case: Case, refusal: Refusal) -> Refusal:
        """The refusal as this caller may read it: what sources, records and people said in it is released."""
        ids = (case.call, refusal.call, case.task.id)
        text = self._release.told(refusal.text, Audience.MODEL, case.book, ids)
        return refusal if text == refusal.text else replace(refusal, text=text)

    def _split_why(self, case: Case, tool: Tool) -> None:
        if tool.is_read or case.resumed is not None:
            return
        case.arguments, why = split_why(case.proposal.arguments)
        beside = case.proposal.meta.get(META_WHY)
        if why is not None and beside is not None and why != beside:
            text = f"`why` and `_meta` (`{META_WHY}`) give two different reasons; give one."
            raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
        if why is None:
            why = beside
        if why is None:
            if tool.config.why or tool.needs_citation:
                text = (
                    f"`{tool.name}` changes something, so say why: add "
                    '`"why": {"reason": "…", "citations": ["ref", …]}` to the arguments.'
                )
                raise Refused(Refusal(Code.WHY_MISSING, text, "other_arguments"))
            return
        if problems := check_why(why):
            text = "; ".join(str(problem) for problem in problems)
            raise Refused(
                Refusal(Code.INVALID_ARGUMENTS, f"{text}. Correct `why` and call again.", "other_arguments")
            )
        case.why = cast("JsonObject", why)

    def _guard(self, case: Case, tool: Tool) -> str | None:
        """The row that guards the record a side effect acts on, where facts about it are compared before and after.

        Without it two calls on one invoice could each see it untouched; docs/decisions/0004-one-writer-per-record.md.
        """
        if tool.is_read or case.record is None or not tool.config.facts:
            return None
        named = (tool.source.name.encode(), case.record.kind.encode(), case.record.key.encode())
        return f"record:{keyed_digest(self._ring.claim_key(case.tenant), 'record', *named)}"

    def _claims(self, case: Case, tool: Tool) -> tuple[Claim, ...]:
        """The implicit key from the arguments, and the explicit one when the client sent one."""
        key = self._ring.claim_key(case.tenant)
        scope = (case.subject.principal.id.encode(), tool.name.encode())
        spelled = _spelled_out(case.arguments, tool, case.argument_bytes)
        arguments = keyed_digest(key, "arguments", spelled)
        replays = tool.effect is Effect.CREATE and not tool.config.repeatable
        window = self._terms.replay_window_ms
        implicit = Claim(
            keyed_digest(key, "claim", *scope, spelled),
            arguments,
            replays=replays,
            window_ms=window,
        )
        explicit = case.proposal.meta.get(META_KEY)
        if explicit is None:
            return (implicit,)
        if not isinstance(explicit, str) or not 1 <= len(explicit) <= KEY_CHARS_MAX:
            text = f"`{META_KEY}` must be a string of 1 to {KEY_CHARS_MAX} characters."
            raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
        stated = Claim(
            keyed_digest(key, "explicit-claim", *scope, explicit.encode()),
            arguments,
            explicit=True,
            replays=True,
        )
        return (stated, implicit)


def _spelled_out(arguments: JsonObject, tool: Tool, given: bytes) -> bytes:
    """Canonical arguments with declared defaults filled in: leaving one out does not make another action of it."""
    properties = cast("Mapping[str, JsonObject | bool]", tool.definition.input_schema.get("properties", {}))
    left_out: JsonObject = {
        name: schema["default"]
        for name, schema in properties.items()
        if name not in arguments and not isinstance(schema, bool) and "default" in schema
    }
    return canonical_bytes({**arguments, **left_out}) if left_out else given


def _check_meta(proposal: Proposal) -> None:
    """A key of ours that is not understood is refused: an ignored grant or task would let more happen than was meant.

    The key itself is not quoted: nothing has looked for secrets in it.
    """
    for key in proposal.meta:
        if key not in _META_KNOWN and key.casefold().startswith(_OUR_META):
            known = " and ".join(f"`{name}`" for name in sorted(_META_KNOWN))
            text = f"`_meta` has a `{_OUR_META}` key that this server does not understand; it knows {known}."
            raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
    check_names(proposal)


_NO_SUCH_CALL = "There is no such call to resume in this task."
