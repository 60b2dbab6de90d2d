"""Steps 7 and 11: the operator's own checks of a call, then its judges. They can only refuse."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from comptroller_audit.redaction import Audience
from comptroller_audit.vocabulary import Code, Refusal, Verification
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.lookups import LookUps, Needs, unavailable
from comptroller_server.call.roads import Roads
from comptroller_server.checks.judge import Judging
from comptroller_server.config.judges import JudgeConfig
from comptroller_server.undo.reversal import next_for
from comptroller_tools.check_loading import BoundCheck, LoadedChecks
from comptroller_tools.check_rules import CheckWhen
from comptroller_tools.check_running import Checked, CheckRuns
from comptroller_tools.checks import CallView, Citation, ResultView, frozen
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.source import EffectHappened
from comptroller_tools.verification import VerificationResult

__all__ = ["Checking", "needs_of"]


class Checking:
    """Runs a tool's checks before its call is committed and after it ran."""

    def __init__(self, checks: LoadedChecks, look_ups: LookUps, release: Roads, judging: Judging) -> None:
        self._judging = judging
        self._checks = checks
        self._look_ups = look_ups
        self._release = release
        self._runs = CheckRuns()

    async def before(self, case: Case) -> None:
        """The checks in the order of the config, to the first that does not pass; then the judges. Raises `Refused`."""
        case.checked, case.checks_deny = (), False
        for check in self._checks.of(case.tool_in_hand.name, CheckWhen.BEFORE):
            checked = await self._runs.run(check, _view(case, check))
            case.checked += (checked,)
            if not checked.passed:
                case.checks_deny = checked.verdict == "failed"
                raise Refused(self._refused(case, check, checked))
        await self._judging.ask(case)

    async def after(self, case: Case) -> None:
        """Every check, on what came back. `failed` is a difference, whatever else is no pass leaves it unknown."""
        tool, outcome = case.tool_in_hand, case.outcome
        checks = self._checks.of(tool.name, CheckWhen.AFTER)
        if not checks or case.problem is not None or outcome is None:
            return
        if outcome.effect is not EffectHappened.DONE:
            return
        missing = {fact for check in checks for fact in check.rule.facts} - case.read_back.keys()
        case.read_back |= await self._look_ups.read_back(case, missing)
        for check in checks:
            case.checked_after += (await self._after(case, check),)
        bad = next(
            (pair for pair in zip(checks, case.checked_after, strict=True) if not pair[1].passed), None
        )
        if tool.is_read:
            case.problem = self._kept_back(case, *bad) if bad is not None else None
            return
        case.verification = _joined(case.verification, case.checked_after)
        if case.verification.result is Verification.DIFFERS:
            failed = next(p for p in zip(checks, case.checked_after, strict=True) if p[1].verdict == "failed")
            case.problem = self._wrong(case, *failed)

    async def close(self) -> None:
        self._runs.close()
        await self._judging.close()

    async def _after(self, case: Case, check: BoundCheck) -> Checked:
        unread = [fact for fact in check.rule.facts if case.read_back.get(fact) is None]
        if unread:
            return Checked(check.rule.python, "unknown", f"`{unread[0]}` could not be read again")
        return await self._runs.run(check, _result_view(case, check))

    # -- in words -------------------------------------------------------------------------------------------------

    def _refused(self, case: Case, check: BoundCheck, checked: Checked) -> Refusal:
        if check.rule.facts and not case.may_tell_facts():
            return unavailable(case, f"check {checked.check}: {checked.verdict}")
        failed = checked.verdict == "failed"
        todo = (
            "Change the arguments to fit, or hand the task to a person."
            if failed
            else "Try again later, or hand the task to a person."
        )
        return Refusal(
            Code.CHECK_FAILED,
            f"{self._said(check, checked)} The call was not run. {todo}",
            "other_arguments" if failed else "after:5",
            case.call,
            details={"check": check.rule.name},
        )

    def _kept_back(self, case: Case, check: BoundCheck, checked: Checked) -> Refusal:
        said = self._said(check, checked) if case.may_tell_facts() else "A check did not pass."
        text = f"What `{case.tool_in_hand.name}` returned is withheld. {said}"
        return Refusal(Code.CHECK_FAILED, text, "person", case.call, details={"check": check.rule.name})

    def _wrong(self, case: Case, check: BoundCheck, checked: Checked) -> Refusal:
        said = self._said(check, checked) if case.may_tell_facts() else "A check of its result did not pass."
        case.wrong = f"The change was made. {said}"
        text = f"{case.wrong} {next_for(case)}"
        return Refusal(
            Code.VERIFICATION_FAILED, text, "person", case.call, details={"check": check.rule.name}
        )

    def _said(self, check: BoundCheck, checked: Checked) -> str:
        """The check by its own name, and its reason as a quotation: it may hold anything the check saw."""
        reason = json.dumps(self._release.text(checked.reason, Audience.MODEL), ensure_ascii=False)
        says = "says no" if checked.verdict == "failed" else "could not tell"
        return f"The check `{check.rule.name}` {says}: {reason}."


def needs_of(tools: Iterable[ToolConfig], judges: Mapping[str, JudgeConfig]) -> Mapping[str, Needs]:
    """What each tool's checks declare and its judges are shown, to be looked up before they are asked."""
    return {
        tool.name: Needs(
            frozenset(fact for check in tool.checks for fact in check.facts).union(
                *(judges[name].facts for name in tool.judge)
            ),
            frozenset(name for check in tool.checks for name in check.history),
        )
        for tool in tools
        if tool.checks or tool.judge
    }


def _joined(found: VerificationResult | None, checked: tuple[Checked, ...]) -> VerificationResult:
    """The read-back and the checks as one: any difference differs, else anything not known is not known."""
    results = {found.result} if found is not None else set[Verification]()
    results |= {_RESULTS[one.verdict] for one in checked}
    worst = next(result for result in _WORST_FIRST if result in results)
    return VerificationResult(worst, found.checks if found is not None else ())


_WORST_FIRST = (
    Verification.DIFFERS,
    Verification.UNKNOWN,
    Verification.MATCHED,
    Verification.NOT_DECLARED,
)
_RESULTS = {
    "passed": Verification.MATCHED,
    "failed": Verification.DIFFERS,
    "unknown": Verification.UNKNOWN,
}


def _view(case: Case, check: BoundCheck) -> CallView:
    return CallView(**_seen(case, check))


def _result_view(case: Case, check: BoundCheck) -> ResultView:
    assert case.outcome is not None
    after = MappingProxyType({name: frozen(case.read_back[name]) for name in check.rule.facts})
    return ResultView(**_seen(case, check), output=frozen(case.outcome.value), after=after)


def _seen(case: Case, check: BoundCheck) -> dict[str, Any]:
    rule = check.rule
    return {
        "tool": case.tool_in_hand.name,
        "input": frozen(case.arguments),
        "facts": MappingProxyType({name: frozen(case.facts[name]) for name in rule.facts}),
        "history": MappingProxyType({name: case.history[name] for name in rule.history}),
        "citations": tuple(
            Citation(str(one["ref"]), str(one["kind"]), str(one["key"]), str(one["version"]))
            for one in case.citations
        ),
    }
