"""One entry of `tools:` in the config: the policy part (`ToolRules`) and what the tools layer adds."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from comptroller_policy.declarations import Name, ToolRules
from comptroller_tools.check_rules import CHECKS_MAX, CheckRule

__all__ = [
    "AbsentMeans",
    "ArgumentRule",
    "BatchRule",
    "BreakerConfig",
    "CompensateRule",
    "RecordRule",
    "RecoverRule",
    "RedactRule",
    "ToolConfig",
    "ToolLimits",
    "VerifyRule",
]

FieldPath = Annotated[str, Field(min_length=1, max_length=200)]


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class RecordRule(_Declared):
    """A business record that a result shows: what becomes a ref."""

    kind: Name
    id: str
    version: str | None = None


class VerifyRule(_Declared):
    """Read `fact` again after the call; every path in `expect` must equal its expression."""

    fact: Name
    expect: dict[str, str]


class AbsentMeans(StrEnum):
    NOT_DONE = "not_done"
    IN_DOUBT = "in_doubt"


class RecoverRule(_Declared):
    """The read that tells whether an effect happened, by the effect key the source stored."""

    tool: str
    arguments: dict[str, Any]
    absent_means: AbsentMeans = AbsentMeans.IN_DOUBT


class CompensateRule(_Declared):
    """The side effect that reverses this one, and where its arguments come from: input, output, facts, call."""

    tool: str
    arguments: dict[str, Any]


class RedactRule(_Declared):
    """A field of the arguments or the output that is withheld whatever stands in it; `as` names its kind.

    `visible_to` may see it all the same: an approver who must see an address, or a model that needs an id which a
    pattern takes for a phone number. Records hold it sealed in any case, and logs never.
    """

    path: FieldPath
    kind: str | None = Field(default=None, alias="as", pattern=r"^[a-z][a-z0-9_]{0,31}$")
    visible_to: tuple[Literal["model", "person"], ...] = ()


class BatchRule(_Declared):
    """A read can be called with a list, as `NAME_many`: `argument` (without it `<of>s`) takes up to `max` values of `of`."""

    of: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    argument: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    max: int = Field(default=20, ge=2, le=100)


class ArgumentRule(_Declared):
    """One argument as an operator wants it: a value that is always sent, another default, or never given.

    `fixed` may be a `secret://` reference. A caller neither sees nor gives what is fixed or removed.
    """

    fixed: Any = None
    default: Any = None
    remove: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ArgumentRule:
        if sum(one is not None for one in (self.fixed, self.default, self.remove)) != 1:
            raise ValueError("it needs one of `fixed`, `default` and `remove: true`, and only one")
        return self


class BreakerConfig(_Declared):
    """After `failures` in a row a source is left alone for `reset_s` seconds; then one call tries."""

    failures: int = Field(default=5, ge=1, le=1_000_000)
    reset_s: float = Field(default=30, gt=0, le=86_400)


class ToolLimits(_Declared):
    """`retries_max` is one for reads and none for anything else where it is not given.

    A read's result beyond one of `answer_…` is told in parts; beyond `response_kib_max` it is withheld.
    """

    timeout_s: float = Field(default=30, gt=0, le=600)
    response_kib_max: int = Field(default=256, ge=1, le=16_384)
    concurrency_max: int = Field(default=16, ge=1, le=1024)
    retries_max: int | None = Field(default=None, ge=0, le=10)
    answer_kib_max: int | None = Field(default=None, ge=1, le=16_384)
    answer_tokens_max: int | None = Field(default=None, ge=256, le=4_000_000)
    answer_items_max: int | None = Field(default=None, ge=1, le=1_000_000)

    @property
    def cuts(self) -> bool:
        """Whether a long result is told in parts."""
        return any((self.answer_kib_max, self.answer_tokens_max, self.answer_items_max))


class ToolConfig(ToolRules):
    """One tool. `schema` names the Pydantic model of the arguments and must match the source's own.

    `source_tool` is its name in the source, where it is offered under another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_name: str | None = Field(default=None, alias="schema")
    source: str | None = None
    source_tool: str | None = Field(default=None, min_length=1, max_length=128)
    description: str | None = None
    arguments: dict[str, ArgumentRule] = Field(default_factory=dict, max_length=100)
    records: tuple[RecordRule, ...] = ()
    cites: tuple[Name, ...] = ()
    units: dict[Name, str] = Field(default_factory=dict)
    cost_usd: str | None = None
    verify: tuple[VerifyRule, ...] = ()
    recover: RecoverRule | None = None
    checks: tuple[CheckRule, ...] = Field(default=(), max_length=CHECKS_MAX)
    compensate: CompensateRule | None = None
    judge: tuple[Name, ...] = Field(default=(), max_length=4)
    why: bool = True
    repeatable: bool = False
    redact: tuple[RedactRule, ...] = ()
    takes_tokens: tuple[FieldPath, ...] = ()
    outbound: bool | None = None
    batch: BatchRule | None = None
    trusted: bool | None = None
    untrusted: tuple[FieldPath, ...] = Field(default=(), max_length=50)
    cache_s: float | None = Field(default=None, gt=0, le=3_600)
    limits: ToolLimits = Field(default_factory=ToolLimits)
