"""Arguments against a schema, the same for a tool, a built-in one and a batch form: what fits, in canonical bytes."""

from __future__ import annotations

from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.errors import CanonicalError
from comptroller_audit.vocabulary import Code, JsonObject, Refusal
from comptroller_server.call.case import Refused
from comptroller_tools.validation import Validator

__all__ = ["fitted"]


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
