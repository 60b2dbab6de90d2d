"""Step 15: what the agent reads. Our own sentences, and quoted, escaped, capped values; never a secret or a link."""

from __future__ import annotations

import json

from comptroller_audit.unit import Receipt
from comptroller_audit.vocabulary import Code, Json, JsonObject, Refusal
from comptroller_server.call.apart import set_apart
from comptroller_server.call.case import Case, Cut
from comptroller_server.call.naming import META_TASK
from comptroller_server.call.observing import META_OBSERVED, banner, told_observed
from comptroller_server.call.proposal import Answer, Ask
from comptroller_server.call.upstream_words import META_UNTRUSTED, fenced

__all__ = [
    "META_CACHED",
    "META_CALL",
    "META_MORE",
    "META_RECEIPT",
    "META_REFUSAL",
    "answer_text",
    "asking_answer",
    "built_in_answer",
    "pending_refusal",
    "refusal_answer",
    "replay_answer",
    "success_answer",
]

_spell = json.JSONEncoder(ensure_ascii=False).encode
META_RECEIPT = "comptroller/receipt"
META_REFUSAL = "comptroller/refusal"
META_CALL = "comptroller/call"
META_EDITED = "comptroller/edited"
META_CACHED = "comptroller/cached"
META_MORE = "comptroller/more"
"""What to give to `result_more` for the rest of a result that was cut."""


_LEADS = {
    Code.APPROVAL_PENDING: "Waiting for approval",
    Code.RECORD_CHANGED: "Waiting for approval",
    Code.ALREADY_DONE: "Already done",
    Code.IN_DOUBT: "Failed",
    Code.VERIFICATION_FAILED: "Failed",
    Code.COMPENSATED: "Failed and reversed",
    Code.OUTPUT_INVALID: "Failed",
}
"""The first words of a refusal; every other code is `Not done`."""


def receipt_json(receipt: Receipt) -> JsonObject:
    """Where the record of this answer stands; check it with `comptroller audit verify --receipts`."""
    return {"log": receipt.log, "index": receipt.index, "leaf": receipt.leaf}


def refusal_answer(refusal: Refusal, call: str, receipt: Receipt | None) -> Answer:
    """A refusal: one self-contained text, details in `_meta`, no structured content."""
    details: JsonObject = {
        "class": refusal.failure_class.value,
        "code": refusal.code.value,
        "retry": refusal.retry,
        "call": refusal.call or call,
        "policies": list(refusal.policies),
        **refusal.details,
    }
    meta: JsonObject = {META_REFUSAL: details, META_CALL: call}
    if receipt is not None and receipt.index >= 0:
        meta[META_RECEIPT] = receipt_json(receipt)
    return Answer(
        f"{_LEADS.get(refusal.code, 'Not done')} ({refusal.code.value}): {refusal.text}",
        is_error=True,
        meta=meta,
        unknown_tool=refusal.code is Code.UNKNOWN_TOOL,
    )


def asking_answer(case: Case, ask: Ask, receipt: Receipt) -> Answer:
    """The call waits for the person at the client; a client that does not ask reads this."""
    text = (
        "Waiting for confirmation: the person at this client has not been asked yet. Nothing has been done. Show them "
        "the question that came with this, and call again with their answer."
    )
    meta: JsonObject = {META_CALL: case.call, META_RECEIPT: receipt_json(receipt)}
    return Answer(text, is_error=True, meta=meta, asks=ask)


def pending_refusal(
    call: str, roles: dict[str, int], reasons: tuple[str, ...], policies: tuple[str, ...], edit: str = ""
) -> Refusal:
    """The answer when a person must agree first; `edit` says what another person changed of it already."""
    people = " and ".join(f"{count} with role {role}" for role, count in sorted(roles.items()))
    because = " ".join((*reasons, *([edit] if edit else []), "Nothing has been done yet."))
    return Refusal(
        Code.APPROVAL_PENDING,
        f"A person must agree first ({people}). {because} When it is approved, call "
        f'`resume_call` with {{"call": "{call}"}}; do not repeat the arguments, and do not wait in a loop.',
        retry="person",
        call=call,
        policies=policies,
        details={"edited": edit} if edit else {},
    )


def success_answer(case: Case) -> Answer:
    """The released output as text and structured content, with refs named in both."""
    structured: JsonObject | None = None
    refs: list[Json] = [ref.as_json() for ref in case.refs]
    told, beside = set_apart(case.told, case.tool_in_hand.upstream)
    if isinstance(told, dict):
        structured = {**told, "refs": refs} if refs else dict(told)
    meta: JsonObject = {META_CALL: case.call, META_TASK: case.task.id}
    if case.edit_told:
        meta[META_EDITED] = case.edit_told
    if case.receipt is not None:
        meta[META_RECEIPT] = receipt_json(case.receipt)
    if (observed := told_observed(case)) is not None:
        meta[META_OBSERVED] = observed
    if case.cached is not None:
        meta[META_CACHED] = case.cached.age_s
    if case.cut is not None and case.cut.more is not None:
        meta[META_MORE] = case.cut.more
    if case.tool_in_hand.upstream is not None:
        meta[META_UNTRUSTED] = case.tool_in_hand.upstream
    offered = structured if case.tool_in_hand.definition.output_schema is not None else None
    return Answer(answer_text(case), offered, meta=meta, beside=beside)


def answer_text(case: Case) -> str:
    """What the agent reads of a call that was done, from step 13 on. It is known, and metered, before it is sent."""
    if case.answer_text is not None:
        return case.answer_text
    upstream = case.tool_in_hand.upstream
    shown, _ = set_apart(case.cut.part.shown if case.cut else case.released, upstream)
    text = fenced(shown, upstream)
    if case.cut is not None:
        text += f"\n{_about_the_cut(case.cut)}"
    if case.refs:
        named = ", ".join(f"{ref.id} ({ref.kind} {ref.key})" for ref in case.refs)
        text += f"\nRefs to cite in `why.citations`: {named}"
    if case.withheld:
        text += f"\n({case.withheld} values were withheld or are shown as tokens.)"
    if said := banner(case):
        text += f"\n{said}"
    if case.cached is not None:
        text += f"\n(This was read {case.cached.age_s:.0f} seconds ago and is kept for a while.)"
    if case.edit_told:
        text += f"\n({case.edit_told} Then it was approved, and it ran once, with the changed arguments.)"
    elif case.resumed is not None:
        text += "\n(Approved by a person and run once, exactly as proposed.)"
    case.answer_text = text
    return text


def _about_the_cut(cut: Cut) -> str:
    if cut.more is None:
        return f"(This is part {cut.number + 1}, the last one.)"
    left = ", ".join(f"{count} of `{name}`" for name, count in cut.part.left.items())
    return (
        f"(Cut: this is part {cut.number + 1}. Still to come, in characters or items: {left}. For the next part call "
        f'`result_more` with {{"more": "{cut.more}"}}, within {cut.lives_s:.0f} seconds of the read; or read something '
        "narrower.)"
    )


def built_in_answer(case: Case, told: JsonObject, text: str, receipt: Receipt) -> Answer:
    """What a built-in tool did, as a sentence and as data that was released already."""
    lines = [text] if text else []
    meta: JsonObject = {
        META_CALL: case.call,
        META_TASK: case.task.id,
        META_RECEIPT: receipt_json(receipt),
    }
    return Answer("\n".join([*lines, _spell(told)]), told, meta=meta)


def replay_answer(
    call: str, output: Json, receipt: Receipt | None, upstream: str | None, edit: str = ""
) -> Answer:
    """The recorded answer of a call that was made before.

    `upstream` says whose words it is made of, `edit` what people had changed of the call.
    """
    meta: JsonObject = {META_CALL: call, "comptroller/replayed": True}
    if upstream is not None:
        meta[META_UNTRUSTED] = upstream
    if receipt is not None:
        meta[META_RECEIPT] = receipt_json(receipt)
    output, beside = set_apart(output, upstream)
    text = (
        f"{fenced(output, upstream)}\n"
        f"(This was done before, by call {call}; it was not done again. This is the recorded result."
        f"{f' {edit}' if edit else ''})"
    )
    return Answer(text, output if isinstance(output, dict) else None, meta=meta, beside=beside)
