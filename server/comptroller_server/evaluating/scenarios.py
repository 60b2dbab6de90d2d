"""Files of scenarios (`evals/*.eval.yaml`): the calls of a task, in order, and what must come of each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from comptroller_audit.vocabulary import Code, Json, JsonObject
from comptroller_policy.errors import Finding
from comptroller_server.config.findings import shape_findings
from comptroller_server.config.paths import finding_at
from comptroller_server.config.yaml_lines import Node, read_yaml

__all__ = ["DONE", "PATTERN", "Scenario", "ScenarioFile", "Step", "filled", "read_scenarios"]

PATTERN = "evals/*.eval.yaml"
"""Where scenarios are looked for, beside the configuration."""
DONE = "done"
SCENARIOS_MAX = 1_000
STEPS_MAX = 200
_NAME = r"^[a-z][a-z0-9_]{0,31}$"
_REFERENCE = re.compile(r"\{([a-z][a-z0-9_]{0,31})((?:\.[A-Za-z0-9_]+)*)\}")
_WITHHELD = re.compile(r"\[withheld|⟦")
"""What a record shows in the place of what people are not shown: no scenario can be played with it."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DECIDES_WHAT_RUNS = re.compile(
    r"PATH|HOME|SHELL|BASH_ENV|ENV|IFS|TMPDIR|(LD|DYLD|PYTHON|NODE|GIT)_?[A-Z0-9_]*"
)

Text = Annotated[str, Field(min_length=1, max_length=300)]
Expected = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Section):
    """One call. Strings of `arguments` may name what an earlier step returned: `{invoice.invoice_id}`."""

    call: Text = Field(description="the tool")
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])
    why: Text | None = Field(
        default=None, description="the reason a side effect is given; else the scenario's name"
    )
    cites: tuple[Annotated[str, Field(pattern=_NAME)], ...] = Field(
        default=(), description="earlier steps whose records it cites"
    )
    save_as: str | None = Field(default=None, pattern=_NAME, description="the name later steps use")
    expect: Expected = Field(default=DONE, description="`done`, or the code it must be refused with")
    output: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="members that the result must have, by path"
    )
    approve: dict[Text, Annotated[int, Field(ge=1, le=20)]] = Field(
        default_factory=dict[str, int],
        description="how many people of a role agree when it waits; then it is resumed",
    )

    @model_validator(mode="after")
    def _known(self) -> Step:
        codes = {code.value for code in Code}
        if self.expect != DONE and self.expect not in codes:
            raise ValueError(f"`expect` is `done` or a refusal code; {self.expect!r} is neither")
        if self.expect != DONE and self.output:
            raise ValueError("a refused call has no `output`: expect `done`, or remove it")
        return self


class ScenarioText(_Section):
    """One scenario: a task as an agent might work it, well or badly."""

    name: Text
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=STEPS_MAX)]
    calls_max: Annotated[int, Field(ge=1)] | None = Field(default=None, description="calls that may run")
    ms_max: Annotated[float, Field(gt=0)] | None = Field(default=None, description="milliseconds it may take")


class ScenarioFile(_Section):
    """A file of scenarios, all for one sandbox."""

    environment: Text = Field(
        description="the `environment` of the sandbox's configuration; nothing runs in another"
    )
    env: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="environment variables for the sources; `{data_dir}` is the sandbox",
    )
    scenarios: Annotated[tuple[ScenarioText, ...], Field(max_length=SCENARIOS_MAX)]

    @field_validator("env")
    @classmethod
    def _runs_nothing(cls, env: dict[str, str]) -> dict[str, str]:
        for name, text in env.items():
            if _ENV_NAME.fullmatch(name) is None or "\0" in text:
                raise ValueError(f"{name[:40]!r} is no name of a variable, or has a value that none can have")
            if _DECIDES_WHAT_RUNS.fullmatch(name):
                raise ValueError(
                    f"`{name}` decides which programs run, which is not for scenarios; remove it"
                )
        return env


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario with its place. `of` is its file's text."""

    file: str
    where: str
    text: ScenarioText
    of: ScenarioFile


def read_scenarios(path: Path, shown: str) -> tuple[list[Scenario], list[Finding]]:
    """The scenarios of a file, or what is wrong with it, each with file and line."""
    tree, findings = read_yaml(path, shown)
    if findings or tree is None:
        return [], findings or [
            Finding(f"{shown}:1", "the file is empty; write `environment:` and `scenarios:`")
        ]
    if not isinstance(tree.value, Mapping):
        return [], [Finding(tree.where, "the file must be `key: value` lines; begin with `environment:`")]
    try:
        document = ScenarioFile.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        return [], list(shape_findings(tree, error, schema=ScenarioFile.model_json_schema()))
    listed = cast("tuple[Node, ...]", tree.value["scenarios"].value)
    scenarios = [
        Scenario(shown, listed[at].where, text, document) for at, text in enumerate(document.scenarios)
    ]
    found = [*_repeated(tree, document), *_unplayable(tree, document)]
    if not scenarios:
        found.append(finding_at(tree, ("scenarios",), "holds no scenario; write one, or remove the file"))
    return ([], found) if found else (scenarios, [])


def _repeated(tree: Node, document: ScenarioFile) -> list[Finding]:
    seen: set[str] = set()
    found: list[Finding] = []
    for at, scenario in enumerate(document.scenarios):
        if scenario.name in seen:
            found.append(finding_at(tree, ("scenarios", at, "name"), "is used twice; choose another"))
        seen.add(scenario.name)
    return found


def _unplayable(tree: Node, document: ScenarioFile) -> list[Finding]:
    """Names of steps that are not there yet, and values that a record withheld."""
    found: list[Finding] = []
    for at, scenario in enumerate(document.scenarios):
        known: set[str] = set()
        for number, step in enumerate(scenario.steps):
            path = ("scenarios", at, "steps", number)
            text = json.dumps(step.arguments, ensure_ascii=False)
            used = [*(match[1] for match in _REFERENCE.finditer(text)), *step.cites]
            found += [
                finding_at(tree, path, f"uses `{name}`, which no earlier step is saved as")
                for name in used
                if name not in known
            ]
            if _WITHHELD.search(text):
                found.append(
                    finding_at(
                        tree,
                        (*path, "arguments"),
                        "holds what the record withheld; write a value of the sandbox",
                    )
                )
            known |= {step.save_as} if step.save_as else set()
    return found


def filled(value: Json, saved: Mapping[str, JsonObject]) -> Json:
    """`value` with each reference to an earlier step's result put in. A string that is nothing else keeps its type.

    Raises KeyError with what is not there.
    """
    if isinstance(value, dict):
        return {name: filled(each, saved) for name, each in value.items()}
    if isinstance(value, list):
        return [filled(each, saved) for each in value]
    if not isinstance(value, str):
        return value
    if (whole := _REFERENCE.fullmatch(value)) is not None:
        return _at(saved, whole)
    return _REFERENCE.sub(lambda match: str(_at(saved, match)), value)


def _at(saved: Mapping[str, JsonObject], match: re.Match[str]) -> Json:
    found: Json = saved[match[1]]
    for part in match[2].split(".")[1:]:
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise KeyError(match[0])
    return found
