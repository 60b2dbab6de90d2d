"""Arguments against a schema, the same for a tool, a built-in one and a batch form: what fits, in canonical bytes."""

from __future__ import annotations

from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.errors import CanonicalError
from comptroller_audit.vocabulary import Code, JsonObject, Refusal
from comptroller_server.call.addressed import check_address
from comptroller_server.call.case import Case, Refused
from comptroller_tools.errors import RecordPathError
from comptroller_tools.records import resource_of
from comptroller_tools.validation import Validator

__all__ = ["fit", "fitted"]


def fitted(name: str, schema: Validator, given: JsonObject) -> bytes:
    """`given` as canonical bytes. Raises `Refused` with all that does not fit the arguments of tool `name`."""
    if problems := schema.check(given):
        listed = "; ".join(str(problem) for problem in problems)
        text = f"The arguments of `{name}` do not fit: {listed}. Correct them and call again."
        raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
    try:
        return canonical_bytes(given)
    except CanonicalError as error:
        raise Refused(Refusal(Code.INVALID_ARGUMENTS, str(error), "other_arguments")) from error


def fit(case: Case, own: JsonObject) -> None:
    """`own`, what the caller gave, as the case's arguments as they are sent: in canonical bytes, with the record they act on.

    Raises `Refused`.
    """
    tool = case.tool_in_hand
    case.arguments, case.argument_bytes = own, fitted(tool.name, tool.arguments, own)
    if tool.config.arguments:
        case.arguments = tool.shaping.filled(own)
        case.argument_bytes = canonical_bytes(case.arguments)
    check_address(tool, case.arguments, case.call)
    try:
        case.record = resource_of(tool.config.resource, case.arguments)
    except (CanonicalError, RecordPathError) as error:
        raise Refused(Refusal(Code.INVALID_ARGUMENTS, str(error), "other_arguments")) from error
