"""`judges:` in the config: models that are asked one narrow question about a call, and can only refuse it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from comptroller_audit.vocabulary import Effect
from comptroller_policy.declarations import Name
from comptroller_policy.errors import Finding
from comptroller_policy.expressions import check_template, paths_in
from comptroller_server.config.paths import KeyPath
from comptroller_server.config.web import check_scheme, read_url
from comptroller_tools.catalogue import Catalogue
from comptroller_tools.declarations import ToolConfig

__all__ = ["VERIFIER", "JudgeConfig", "input_findings", "judge_findings", "judged_tool_findings"]

VERIFIER = "verifier"
"""The role in `models` whose model a judge is, unless it names one."""

JudgeAnswer = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
JudgeModel = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$")]


class JudgeConfig(BaseModel):
    """One entry of `judges:`. `url` is the base of an OpenAI-compatible API, such as `https://api.openai.com/v1`.

    An answer in `allow` lets the call go on; every other one, and none, refuses it. `input` is what the model is shown,
    a template for each label; it is redacted and fenced as data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(min_length=1, max_length=2048)
    model: JudgeModel | None = None
    key: str | None = Field(default=None, min_length=1)
    question: str = Field(min_length=1, max_length=2000)
    answers: tuple[JudgeAnswer, ...] = Field(min_length=2, max_length=16)
    allow: tuple[JudgeAnswer, ...] = Field(min_length=1, max_length=15)
    input: dict[Name, str] = Field(min_length=1, max_length=16)
    timeout_s: float = Field(default=10, gt=0, le=60)
    json_schema: bool = True

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        parsed = read_url(url, "https://api.openai.com/v1")
        check_scheme(parsed)
        if not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
            raise ValueError("it must be a host and a path alone; a key belongs in `key`, as a reference")
        return url

    @property
    def facts(self) -> frozenset[str]:
        """The facts that its input shows."""
        return frozenset(
            path.split(".")[1]
            for template in self.input.values()
            for path in paths_in(template)
            if path.startswith("facts.")
        )


def judge_findings(
    judges: Mapping[str, JudgeConfig], models: Mapping[str, str], priced: Collection[str]
) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with judges as such: answers that cannot be, no model, or one whose price is not known."""
    for name, judge in judges.items():
        for at, answer in enumerate(judge.allow):
            if answer not in judge.answers:
                known = ", ".join(f"`{one}`" for one in judge.answers)
                yield ("judges", name, "allow", at), f"is not one of its `answers`; use one of {known}"
        folded = {answer.casefold() for answer in judge.answers}
        if len(folded) < len(judge.answers):
            yield ("judges", name, "answers"), "has two that differ by case only; rename one"
        if set(judge.allow) >= set(judge.answers):
            yield ("judges", name, "allow"), "has every answer, so it could never refuse; leave one out"
        model = judge.model or models.get(VERIFIER)
        if model is None:
            yield ("judges", name), f"has no model; add `model`, or `models: {{{VERIFIER}: …}}`"
        elif judge.model is not None and model not in priced:
            text = "has a price that is not known; add it: `prices: {MODEL: {input_usd_per_mtok: …, output_usd_per_mtok: …}}`"
            yield ("judges", name, "model"), text


def judged_tool_findings(tool: ToolConfig, judges: Sequence[str]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with a tool's `judge`, each with its place in the tool's entry."""
    for at, name in enumerate(tool.judge):
        if name not in judges:
            known = ", ".join(f"`{one[:80]}`" for one in judges[:12])
            yield (
                ("judge", at),
                f"names no judge; {f'use one of {known}' if known else 'declare it in `judges`'}",
            )
        elif name in tool.judge[:at]:
            yield ("judge", at), "is asked already; remove one of the two"
    if tool.judge and tool.effect is Effect.READ:
        yield ("judge",), "is for side effects; a read changes nothing that a judge could stop"


def input_findings(catalogue: Catalogue, judges: Mapping[str, JudgeConfig]) -> list[Finding]:
    """What a judge is to be shown and the tools that ask it do not have."""
    return [
        Finding(f"judges.{name}.input.{label}", f"does not fit `{tool.name}`: {problem}")
        for tool in catalogue
        for name in tool.config.judge
        for label, template in judges[name].input.items()
        for problem in check_template(
            template,
            {
                root: schema
                for root, schema in catalogue.schemas(tool).items()
                if root == "input" or root.startswith("facts.")
            },
        )
    ]
