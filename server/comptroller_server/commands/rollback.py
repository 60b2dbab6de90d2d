"""`comptroller tasks rollback`: the plan of taking back what a task did, and, when told so, taking it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from comptroller_server.app import attached
from comptroller_server.commands.credentials import by_credential, identify
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import ID_CHARS_MIN, on_store, quiet_stdout
from comptroller_server.commands.showing import compact, emit, say
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.undo.compensation import Ordered
from comptroller_server.undo.rollback import Plan, Result, plan_of, roll_back, tasks_matching

__all__ = ["rollback"]


@click.command()
@click.argument("task")
@click.option("--yes", is_flag=True, help="Do it. Without it, only the plan is shown.")
@by_credential
@options()
@click.pass_context
def rollback(ctx: click.Context, task: str, yes: bool, credential_file: Path | None) -> None:
    """Take back what TASK did: its writes, newest first, each by the call its tool declares as `compensate`.

    Each is a governed call: policy, verification and the record as for any other. What nothing reverses is named and
    left. The first failure ends it. It needs an approver's credential, from a file or asked on the terminal. Exit
    code 1 when something of the task still stands.
    """
    invocation = invocation_of(ctx)
    file = credential_file if yes else None
    outcome = on_store(invocation, lambda opened: _rollback(opened, task, file, yes=yes))
    if invocation.as_json:
        emit(outcome.as_json())
    else:
        outcome.show()
    if yes and not outcome.is_whole:
        findings()


class Outcome:
    """A plan and what came of it. `refusal` says why nothing was tried."""

    def __init__(self, plan: Plan, results: list[Result], *, tried: bool, refusal: str | None) -> None:
        self.plan, self.results, self.tried, self.refusal = plan, results, tried, refusal

    @property
    def is_whole(self) -> bool:
        """Nothing of the task stands any more."""
        done = [result for result in self.results if result.problem is None]
        return self.refusal is None and not self.plan.left and len(done) == len(self.plan.undo)

    def as_json(self) -> dict[str, Any]:
        tried = {result.undo.call: result for result in self.results}
        steps: list[dict[str, Any]] = []
        for undo in self.plan.undo:
            result = tried.get(undo.call)
            state = "planned" if result is None else "failed" if result.problem else "reversed"
            steps.append(
                {
                    "call": undo.call,
                    "tool": undo.tool,
                    "with": undo.target,
                    "arguments": undo.arguments,
                    "state": state,
                    "by": (result.by or None) if result is not None else None,
                    "problem": result.problem if result is not None else None,
                }
            )
        left = [
            {"call": one.call, "tool": one.tool, "state": one.state, "why": one.why} for one in self.plan.left
        ]
        return {
            "ok": self.is_whole if self.tried else self.refusal is None,
            "task": self.plan.task,
            "tried": self.tried,
            "problem": self.refusal,
            "steps": steps,
            "left": left,
        }

    def show(self) -> None:
        say(
            f"Task {self.plan.task}: {len(self.plan.undo)} to reverse, {len(self.plan.left)} left as they are."
        )
        for undo in self.plan.undo:
            say(f"  {undo.call} {undo.tool}, with {undo.target} {compact(undo.arguments)}")
        for one in self.plan.left:
            say(f"  {one.call} {one.tool} ({one.state}) stays: {one.why}")
        if not self.tried:
            say(
                self.refusal
                or ("Nothing was changed; say --yes to do it." if self.plan.undo else "Nothing to do.")
            )
            return
        for result in self.results:
            told = (
                f"reversed (call {result.by})"
                if result.problem is None
                else f"NOT reversed: {result.problem}"
            )
            say(f"  {result.undo.call} {told}")
        done = sum(result.problem is None for result in self.results)
        untried = len(self.plan.undo) - len(self.results)
        say(f"{done} of {len(self.plan.undo)} reversed, {untried} not tried, {len(self.plan.left)} left.")


async def _rollback(installation: Installation, wanted: str, file: Path | None, *, yes: bool) -> Outcome:
    with quiet_stdout():
        installation.check()
    if not yes:
        return Outcome(await _plan(installation, wanted), [], tried=False, refusal=None)
    # Who it is, before this process owns anything: a `halt` would wait for it while a person types.
    voter = await identify(installation, file)
    plan = await _plan(installation, wanted)
    if not voter.counts:
        text = "Nothing was changed: this needs an approver's credential (--credential-file)."
        return Outcome(plan, [], tried=False, refusal=text)
    async with attached(installation) as service:
        plan = await _plan(installation, wanted)  # as it is now
        ordered = Ordered(voter.name, voter.roles, voter.assurance.value)
        results = [one async for one in roll_back(service.compensation, TENANT, plan, ordered)]
        return Outcome(plan, results, tried=True, refusal=None)


async def _plan(installation: Installation, wanted: str) -> Plan:
    def read(reader: Any) -> Plan:
        if len(wanted) < ID_CHARS_MIN:
            raise CommandError(
                f"{wanted!r} is no task id; give one of `comptroller calls list`, or its beginning"
            )
        found = tasks_matching(reader, TENANT, wanted)
        if len(found) != 1:
            said = f"several tasks begin with {wanted!r}" if found else f"no task begins with {wanted!r}"
            raise CommandError(f"{said}; see `comptroller calls list`")
        return plan_of(reader, installation.ring, TENANT, installation.catalogue, found[0])

    return await installation.store.read(read)
