"""Which task a request names: in `_meta`, in the header `Comptroller-Task`, or by the call it resumes."""

from __future__ import annotations

from comptroller_audit.calls import CALLS
from comptroller_audit.database import Row
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import Code, Json, Refusal
from comptroller_server.call.case import Refused
from comptroller_server.call.proposal import Proposal
from comptroller_server.tasks.built_in_tools import BEGIN

__all__ = ["CALL_ID_CHARS_MAX", "META_REQUEST", "META_TASK", "call_row", "check_names", "named_task"]

META_TASK = "comptroller/task"
META_REQUEST = "comptroller/request"
CALL_ID_CHARS_MAX = 64


def named_task(proposal: Proposal) -> str | None:
    """The id that was given, or None; `check_names` says what is wrong with it."""
    named = proposal.meta.get(META_TASK, proposal.task_header)
    return named if isinstance(named, str) else None


def check_names(proposal: Proposal) -> None:
    """Raises `Refused` for a task that is named twice differently, and for what no text can be."""
    if META_TASK in proposal.meta:
        named = proposal.meta[META_TASK]
        if not isinstance(named, str):
            raise _invalid(f"`{META_TASK}` must be the id of a task, as `{BEGIN}` gives it.")
        if proposal.task_header not in (None, named):
            raise _invalid(
                f"`_meta` (`{META_TASK}`) and the header `Comptroller-Task` name two different tasks; name one."
            )
    if META_REQUEST in proposal.meta and proposal.tool != BEGIN:
        raise _invalid(f"`_meta` (`{META_REQUEST}`) is read by `{BEGIN}` only; leave it out here.")


def call_row(reader: Reader, tenant: str, wanted: Json) -> Row | None:
    """The row of the call with this id. What is no id of ours is not looked for: some no database can be asked for."""
    if not isinstance(wanted, str) or not wanted.isprintable() or len(wanted) > CALL_ID_CHARS_MAX:
        return None
    return reader.row(tenant, CALLS, wanted)


def _invalid(text: str) -> Refused:
    return Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
