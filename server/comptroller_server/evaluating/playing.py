"""Playing scenarios on a service of their own: real sources, a store that nobody else has, and the one pipeline."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from comptroller_audit.calls import CALLS
from comptroller_audit.report import Report
from comptroller_audit.unit import Unit
from comptroller_audit.vocabulary import Code, Json, JsonObject, Subject
from comptroller_policy.approvals import APPROVALS, Assurance, Vote, VoteOnApproval, asked_digest
from comptroller_server.app import Service, running
from comptroller_server.call.answers import META_CALL, META_REFUSAL
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.config.loading import load_config
from comptroller_server.errors import CommandError
from comptroller_server.evaluating.scenarios import DONE, Scenario, Step, filled
from comptroller_server.installation import TENANT, Installation
from comptroller_server.rehearsal.trying import CaseEnd
from comptroller_server.reporting.reading import read_report

__all__ = ["Played", "Stage", "stage"]

_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Played:
    """One scenario and what came of it. `because` is the first thing that differs, with its step counted from 1."""

    scenario: Scenario
    end: CaseEnd
    because: str
    took_s: float
    calls: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.scenario.file

    @property
    def where(self) -> str:
        return self.scenario.where

    @property
    def name(self) -> str:
        return self.scenario.text.name


class _Differs(Exception):
    """A step came out otherwise than the scenario says."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A sandbox at work. Each scenario is played for a principal of its own, so that none sees another's budgets."""

    service: Service
    subject: Subject

    async def play(self, number: int, scenario: Scenario) -> Played:
        """Play the steps until one differs."""
        began = time.monotonic()
        who = replace(self.subject.principal, subject=f"eval-{number}")
        player = _Player(self.service, replace(self.subject, principal=who), scenario)
        end, because = CaseEnd.PASSED, ""
        try:
            for at, step in enumerate(scenario.text.steps, 1):
                await player.play(at, step)
            player.within((time.monotonic() - began) * 1000)
        except _Differs as differs:
            end, because = CaseEnd.FAILED, str(differs)
        except KeyError as missing:
            end, because = CaseEnd.UNUSABLE, f"no earlier step returned {missing.args[0]}"
        return Played(scenario, end, because, time.monotonic() - began, tuple(player.calls))

    def report(self) -> Report:
        """What all that was played came to."""
        return read_report(self.service.installation, None)


class _Player:
    """One scenario being played."""

    def __init__(self, service: Service, subject: Subject, scenario: Scenario) -> None:
        self._service = service
        self._subject = subject
        self._scenario = scenario
        self._saved: dict[str, JsonObject] = {}
        self._refs: dict[str, list[Json]] = {}
        self.calls: list[str] = []
        self._ran = 0

    async def play(self, at: int, step: Step) -> None:
        """Raises `_Differs`, or KeyError for a reference to what is not there."""
        answer = await self._propose(step.call, self._arguments(step))
        if step.approve and _code(answer) == Code.APPROVAL_PENDING.value:
            call = str(answer.meta[META_CALL])
            await self._agree(at, call, step.approve)
            answer = await self._propose("resume_call", {"call": call})
        came = _code(answer) or DONE
        if came != step.expect:
            said = f": {answer.text}" if answer.is_error else ""
            raise _Differs(f"step {at}, {step.call}: expected {step.expect}, was {came}{said}")
        self._ran += came == DONE
        self._keep(at, step, answer)

    def within(self, took_ms: float) -> None:
        """Raises `_Differs` when the scenario took more than it may."""
        text = self._scenario.text
        if text.calls_max is not None and self._ran > text.calls_max:
            raise _Differs(f"{self._ran} calls ran, at most {text.calls_max} may")
        if text.ms_max is not None and took_ms > text.ms_max:
            raise _Differs(f"it took {took_ms:.0f} ms, at most {text.ms_max:g} are allowed")

    def _arguments(self, step: Step) -> JsonObject:
        arguments = filled(step.arguments, self._saved)
        assert isinstance(arguments, dict)
        tool = self._service.installation.catalogue.find(step.call)
        acts = tool is not None and not tool.is_read
        if "why" in arguments or not (acts or step.why or step.cites):
            return arguments
        cited: list[Json] = [ref for name in step.cites for ref in self._refs[name]]
        why: JsonObject = {"reason": step.why or self._scenario.text.name, "citations": cited}
        return {**arguments, "why": why}

    async def _propose(self, tool: str, arguments: JsonObject) -> Answer:
        answer = await self._service.pipeline.call(Proposal(self._subject, tool, arguments))
        if META_CALL in answer.meta:
            self.calls.append(str(answer.meta[META_CALL]))
        return answer

    async def _agree(self, at: int, call: str, roles: Mapping[str, int]) -> None:
        store = self._service.installation.store
        row = await store.read(lambda reader: reader.row(TENANT, CALLS, call))
        approval = str(row["approval"]) if row is not None else ""
        for role, count in roles.items():
            for person in range(count):
                asked = await store.read(lambda reader: reader.row(TENANT, APPROVALS, approval))
                if asked is None:
                    raise _Differs(f"step {at}: nobody is asked about it")
                vote = Vote(f"{role}-{person + 1}", (role,), Assurance.CREDENTIAL, True)
                await store.commit(TENANT, Unit([VoteOnApproval(approval, vote, asked_digest(asked))]))

    def _keep(self, at: int, step: Step, answer: Answer) -> None:
        result = answer.structured or {}
        name = step.save_as or f"step_{at}"
        refs = result.get("refs")
        self._saved[name] = result
        self._refs[name] = (
            [ref["ref"] for ref in refs if isinstance(ref, dict)] if isinstance(refs, list) else []
        )
        for path, wanted in step.output.items():
            found = filled(f"{{{name}.{path}}}", self._saved)
            if found != wanted:
                raise _Differs(f"step {at}, {step.call}: `{path}` is {found!r}, expected {wanted!r}")


def _code(answer: Answer) -> str | None:
    refusal = answer.meta.get(META_REFUSAL)
    return str(refusal["code"]) if isinstance(refusal, dict) else None


@contextlib.asynccontextmanager
async def stage(
    config_file: Path, sandbox: Path, environment: str, env: Mapping[str, str]
) -> AsyncGenerator[Stage]:
    """A service on `config_file` in the empty folder `sandbox`.

    Raises `CommandError` when the configuration is not that of this sandbox: then nothing was called.
    """
    with _environment({name: text.replace("{data_dir}", str(sandbox)) for name, text in env.items()}):
        config = load_config(config_file, data_dir=sandbox)
        if config.environment != environment or environment == _DEFAULT:
            raise CommandError(
                f"these scenarios are for the environment {environment!r}, and {config_file} is for {config.environment!r}: "
                "nothing was called. Give a configuration whose sources may be acted on, with an `environment` of its own "
                "(not `default`), and name it in the file"
            )
        store = config.store
        kept_in = [store.database, store.keys_file, *store.checkpoint_files]
        if not all(path is not None and path.is_relative_to(sandbox) for path in kept_in):
            raise CommandError(
                "the record of a sandbox must lie in it, so nothing was called: in `store`, put the SQLite file, the keys and "
                "the checkpoints below {data_dir}"
            )
        installation = Installation(config)
        async with running(installation) as service:
            client = next(iter(config.identity.local.clients), None)
            if client is None:
                raise CommandError("the configuration names no client; add one under identity.local.clients")
            yield Stage(service, installation.identity.stdio_subject(client))


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
