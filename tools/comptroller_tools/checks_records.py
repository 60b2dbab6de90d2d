"""Ready-made checks: is this the right record? What the agent cites, what was looked up and what it asks for agree."""

from __future__ import annotations

from comptroller_tools.checks import CallView, CheckVerdict, DataPath, Failed, Passed

__all__ = ["cites_the_record", "values_agree"]


def cites_the_record(call: CallView, *, kind: str, key: DataPath) -> CheckVerdict:
    """The agent cites the very record it acts on: a ref of `kind` whose key is the value at `key`."""
    wanted = str(call.value(key))
    cited = {citation.key for citation in call.citations if citation.kind == kind}
    if wanted in cited:
        return Passed()
    if not cited:
        return Failed(f"The call cites no {kind}; read {kind} {wanted} and cite its ref.")
    return Failed(f"The call is for {kind} {wanted} and cites {kind} {', '.join(sorted(cited))}.")


def values_agree(call: CallView, *, left: DataPath, right: DataPath) -> CheckVerdict:
    """Two values of the call are the same, such as the id asked for and the id of what was looked up."""
    first, second = call.value(left), call.value(right)
    # JSON has true and 1 as two values, Python as one.
    if first == second and isinstance(first, bool) == isinstance(second, bool):
        return Passed()
    return Failed(f"{left} and {right} are not the same.")
