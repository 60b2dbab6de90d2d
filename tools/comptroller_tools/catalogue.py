"""The catalogue: every offered tool, joined from its config, its source's definition and what both compile to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from comptroller_audit.patterns import Pattern
from comptroller_audit.vocabulary import Effect
from comptroller_policy.errors import ExpressionError, Finding
from comptroller_policy.expressions import (
    Expression,
    check_expression,
    check_template,
    compile_expression,
    paths_in,
)
from comptroller_policy.fact_order import CIRCLE, in_a_circle
from comptroller_policy.model import ToolFacts
from comptroller_tools.batches import Batch, batch_findings
from comptroller_tools.citing import (
    ANY_CITATION,
    CitationTerms,
    citation_findings,
    citation_note,
    needs_citation,
)
from comptroller_tools.compensation import Compensation, compensation_findings
from comptroller_tools.declarations import ToolConfig, ToolLimits
from comptroller_tools.errors import RecordPathError, SourceInvalid, ToolError
from comptroller_tools.parts import BYTES_PER_TOKEN, PartLimits
from comptroller_tools.records import check_records, check_resource
from comptroller_tools.redacted_schemas import redacted, taking_tokens
from comptroller_tools.redactions import Redactions, redactions_of
from comptroller_tools.relaying import relaying_findings
from comptroller_tools.shaping import Shaping, shaped, shaping_findings
from comptroller_tools.source import Source, ToolDefinition
from comptroller_tools.upstream.definitions import Kind, kind_of
from comptroller_tools.upstream.source import UpstreamSource
from comptroller_tools.validation import (
    Validator,
    compile_schema,
    for_clients,
    screen,
    with_more,
    with_refs,
    with_why,
)
from comptroller_tools.verification import Expectation, compile_expectations

__all__ = ["Catalogue", "CatalogueInvalid", "Tool"]

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class CatalogueInvalid(ToolError):
    """Tools of the config and definitions of the sources do not fit. Carries every finding."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in findings))


@dataclass(frozen=True, slots=True)
class Tool:
    """One offered tool, ready to be called. Expressions and schemas are compiled once, at load."""

    name: str
    config: ToolConfig
    source: Source
    definition: ToolDefinition
    """Of what is sent: with the operator's `arguments` put in."""
    own_input: Mapping[str, Any]
    """The schema of what its callers give, which `arguments` checks."""
    arguments: Validator
    output: Validator | None
    derived: Mapping[str, Expression]
    units: Mapping[str, Expression]
    expectations: tuple[Expectation, ...]
    advertised_input: Mapping[str, Any]
    advertised_output: Mapping[str, Any] | None
    description: str
    redactions: Redactions = field(default_factory=Redactions)
    shaping: Shaping = field(default_factory=Shaping)
    needs_citation: bool = False
    compensation: Compensation | None = None
    batch: Batch | None = None
    effect: Effect = field(init=False)
    is_read: bool = field(init=False)
    is_free_read: bool = field(init=False)
    """A read without declared cost or units makes one commit, at the end."""
    is_outbound: bool = field(init=False)
    """Whether credentials are kept out of its arguments: all side effects, unless the config says otherwise."""
    retries_max: int = field(init=False)
    kind: Kind = field(init=False)
    """Whether it is called as a tool, or is how the resources or a prompt of an upstream are read."""
    parts: PartLimits | None = field(init=False)
    """Beyond what its result is told in parts; None where it is told whole."""
    upstream: str | None = field(init=False)
    """The MCP server of somebody else that it comes from: nothing that it says is trusted."""

    def __post_init__(self) -> None:
        # Asked many times a call, so worked out once.
        theirs = isinstance(self.source, UpstreamSource)
        object.__setattr__(self, "upstream", self.source.name if theirs else None)
        object.__setattr__(self, "kind", kind_of(self.definition.name) if theirs else Kind.TOOL)
        object.__setattr__(self, "effect", self.config.effect)
        object.__setattr__(self, "is_read", self.effect is Effect.READ)
        object.__setattr__(self, "is_free_read", self.is_read and not self.units)
        object.__setattr__(self, "parts", _part_limits(self.config.limits) if self.is_free_read else None)
        said = self.config.outbound
        object.__setattr__(self, "is_outbound", not self.is_read if said is None else said)
        given = self.config.limits.retries_max
        object.__setattr__(self, "retries_max", int(self.is_read) if given is None else given)

    def quarantine(self) -> str | None:
        """Why it is set aside for now: its definition is not the one a person accepted."""
        if self.upstream is None:
            return None
        assert isinstance(self.source, UpstreamSource)
        return self.source.quarantine(self.definition.name)


class Catalogue:
    """Tools by name. Immutable; a reload builds a new one. Raises `CatalogueInvalid` with every finding."""

    def __init__(
        self,
        configs: Sequence[ToolConfig],
        sources: Mapping[str, Source],
        patterns: Collection[Pattern] = (),
        citing: CitationTerms = ANY_CITATION,
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`patterns` are what redaction looks for: advertised schemas leave room for what it puts in place of that.
        `secrets` are the values of fixed arguments, by the reference that was written."""
        self._secrets = secrets
        self._sources = sources
        self._patterns = frozenset(patterns)
        self._citing = citing
        findings: list[Finding] = []
        self._tools: dict[str, Tool] = {}
        for config in configs:
            where = f"tools.{config.name}"
            try:
                self._tools[config.name] = self._build(config, where)
            except (ExpressionError, SourceInvalid) as error:
                findings.append(Finding(where, str(error)))
            except CatalogueInvalid as error:
                findings.extend(error.findings)
        for tool in list(self._tools.values()):
            problems = self._tools_named(tool) or self._cross_check(tool)
            findings.extend(problems)
            if not problems:
                expectations = compile_expectations(
                    tool.config.verify, self._schemas(tool), f"tools.{tool.name}"
                )
                self._tools[tool.name] = replace(tool, expectations=expectations)
        findings += relaying_findings([(tool.config, tool.source.name) for tool in self])
        findings += citation_findings([(tool.config, tool.source.name) for tool in self], citing)
        if findings:
            raise CatalogueInvalid(findings)
        for tool in list(self._tools.values()):  # last: what reverses a tool is complete by now
            if (rule := tool.config.compensate) is not None:
                compensation = Compensation.of(rule, self._tools[rule.tool])
                self._tools[tool.name] = replace(tool, compensation=compensation)

        self._batched = {tool.batch.name: tool for tool in self if tool.batch is not None}

    def find(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def batched(self, name: str) -> Tool | None:
        """The read whose batch form has this name."""
        return self._batched.get(name)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def names(self) -> list[str]:
        return list(self._tools)

    def for_policy(self) -> list[ToolFacts]:
        """What policy needs to know of each tool."""
        return [
            ToolFacts(
                name=tool.name,
                source=tool.source.name,
                effect=tool.effect,
                input_schema=tool.definition.input_schema,
                output_schema=tool.definition.output_schema,
                rules=tool.config,
                resource_kind=tool.config.resource.partition(":")[0] if tool.config.resource else None,
                fact_schemas={
                    name: self._tools[fact.tool].definition.output_schema or ANY_OBJECT
                    for name, fact in tool.config.facts.items()
                },
                spends=bool(tool.units),
            )
            for tool in self._tools.values()
        ]

    def schemas(self, tool: Tool) -> Mapping[str, Mapping[str, Any]]:
        """What each path root of a tool's expressions holds: `input`, `output`, `facts.NAME` and so on."""
        return self._schemas(tool)

    # -- building -----------------------------------------------------------------------------------------------

    def _build(self, config: ToolConfig, where: str) -> Tool:
        source, defined = self._origin(config, where)
        if misfits := list(shaping_findings(defined, config.arguments, self._secrets)):
            raise CatalogueInvalid([Finding(f"{where}.{at}", problem) for at, problem in misfits])
        shaping, definition, own = shaped(defined, config.arguments, self._secrets)
        problems = screen(replace(definition, name=config.name), config.effect)
        title = definition.input_schema.get("title")
        if config.schema_name is not None and config.schema_name != title:
            problems.append(
                f"`schema: {config.schema_name}` but the source's arguments are `{title}`; name that"
            )
        if problems:
            raise CatalogueInvalid([Finding(where, problem) for problem in problems])
        side_effect = config.effect is not Effect.READ
        cites, note = needs_citation(config, self._citing), citation_note(config, self._citing)
        described = config.description or definition.description
        units = {name: compile_expression(text) for name, text in config.units.items()}
        if config.cost_usd is not None:
            units["cost_usd"] = compile_expression(config.cost_usd)
        output = definition.output_schema
        emails = Pattern.EMAIL in self._patterns
        redactions, wrong = redactions_of(config, definition.input_schema, output, emails=emails)
        if wrong:
            raise CatalogueInvalid(
                [Finding(f"{where}.{field}" if field else where, problem) for field, problem in wrong]
            )
        shown_input = taking_tokens(own, config.takes_tokens)
        shown_output = for_clients(output)
        if self._patterns or redactions.hides:
            shown_output = redacted(shown_output, self._patterns, redactions.output)
        if not side_effect:
            shown_output = with_refs(shown_output)
        if not side_effect and config.limits.cuts:
            if "more" in (output or {}).get("properties", {}):
                text = "a result in parts has `more`, and the tool's own result has it too; remove this limit"
                raise CatalogueInvalid([Finding(f"{where}.limits", text)])
            shown_output = with_more(shown_output)
        rule = config.batch
        if found := [Finding(at, text) for at, text in batch_findings(rule, own, f"{where}.batch")]:
            raise CatalogueInvalid(found)
        return Tool(
            name=config.name,
            config=config,
            source=source,
            definition=definition,
            own_input=own,
            arguments=compile_schema(own),
            shaping=shaping,
            output=compile_schema(output) if output is not None else None,
            derived={name: compile_expression(text) for name, text in config.derived.items()},
            units=units,
            expectations=(),
            advertised_input=(
                with_why(shown_input, required=config.why or cites, citations=cites)
                if side_effect
                else shown_input
            ),
            advertised_output=shown_output,
            description=f"{described} {note}".strip() if note else described,
            redactions=redactions,
            needs_citation=cites,
            batch=Batch.build(config.name, rule, described, shown_input, shown_output) if rule else None,
        )

    def _origin(self, config: ToolConfig, where: str) -> tuple[Source, ToolDefinition]:
        """The one source that defines the tool."""
        if config.source is not None and config.source not in self._sources:
            raise CatalogueInvalid([Finding(f"{where}.source", f"There is no source `{config.source}`.")])
        wanted = config.source_tool or config.name
        candidates = [
            (source, source.definitions()[wanted])
            for name, source in self._sources.items()
            if config.source in (None, name) and wanted in source.definitions()
        ]
        if len(candidates) != 1:
            offers = sorted(name for source in self._sources.values() for name in source.definitions())
            message = (
                f"Several sources define `{wanted}`; add `source:` to say which."
                if candidates
                else f"No source defines `{wanted}`. The sources define: {', '.join(offers) or 'nothing'}."
                f"{_unpinned(self._sources)}"
            )
            raise CatalogueInvalid([Finding(f"{where}.name", message)])
        return candidates[0]

    def _tools_named(self, tool: Tool) -> list[Finding]:
        """Tools that this one's facts and recovery read."""
        config, where = tool.config, f"tools.{tool.name}"
        named = [(f"facts.{name}", fact.tool, fact.arguments) for name, fact in config.facts.items()]
        if config.recover is not None:
            named.append(("recover", config.recover.tool, config.recover.arguments))
        findings: list[Finding] = []
        for key, name, arguments in named:
            other = self._tools.get(name)
            if other is None or not other.is_read:
                text = f"`{name}` must be a tool of this config that is classified as read."
                findings.append(Finding(f"{where}.{key}.tool", text))
                continue
            for given in (*other.shaping.fixed, *sorted(other.shaping.removed)):
                if given in arguments:
                    text = f"gives `{given}`, which `tools.{name}.arguments` fixes or removes; leave it out"
                    findings.append(Finding(f"{where}.{key}.arguments", text))
        return findings

    def _cross_check(self, tool: Tool) -> list[Finding]:
        """Paths and expressions against the schemas they read."""
        config, where = tool.config, f"tools.{tool.name}"
        after = self._schemas(tool)
        before = {root: schema for root, schema in after.items() if root != "output"}
        given = {root: schema for root, schema in before.items() if not root.startswith("facts.")}
        findings = [
            Finding(f"{where}.{field}", problem)
            for field, problems in (
                *(
                    (f"facts.{n}.arguments", check_template(f.arguments, _beside(n, before)))
                    for n, f in config.facts.items()
                ),
                *((f"facts.{n}.arguments", (CIRCLE,)) for n in in_a_circle(config.facts)),
                *((f"derived.{n}", check_expression(text, before)) for n, text in config.derived.items()),
                *((f"units.{n}", check_expression(text, given)) for n, text in config.units.items()),
                ("cost_usd", check_expression(config.cost_usd, given) if config.cost_usd is not None else ()),
                (
                    "recover.arguments",
                    check_template(config.recover.arguments, given) if config.recover else (),
                ),
            )
            for problem in problems
        ]
        if not findings and _seeks_what_is_not_stored(tool):
            text = (
                f"looks for `call.effect_key`, which `{tool.name}` never gets, so it would always find nothing; "
                "give the function a parameter `Annotated[str, EffectKey]` and let it store that"
            )
            findings.append(Finding(f"{where}.recover.arguments", text))
        found = check_resource(config.resource, tool.definition.input_schema, f"{where}.resource")
        found += check_records(config.records, after, where)
        findings += [Finding(where, problem) for problem in found]
        if config.compensate is not None:
            target = self._tools.get(config.compensate.tool)
            findings += compensation_findings(config.compensate, target, after, f"{where}.compensate")
        try:
            compile_expectations(config.verify, after, where)
        except RecordPathError as error:
            findings += [Finding(where, line) for line in str(error).splitlines()]
        return findings

    def _schemas(self, tool: Tool) -> dict[str, Mapping[str, Any]]:
        """What each path root of a tool's expressions holds."""
        facts = {
            f"facts.{name}": self._tools[fact.tool].definition.output_schema or ANY_OBJECT
            for name, fact in tool.config.facts.items()
        }
        return {
            "input": tool.definition.input_schema,
            "output": tool.definition.output_schema or ANY_OBJECT,
            "call": _CALL_SCHEMA,
            "task": _TASK_SCHEMA,
            **facts,
        }


def _beside(fact: str, schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What the arguments of a look-up may name: all that is known before the call, but for itself."""
    return {root: schema for root, schema in schemas.items() if root != f"facts.{fact}"}


def _part_limits(limits: ToolLimits) -> PartLimits | None:
    sizes = [limits.answer_kib_max and limits.answer_kib_max * 1024]
    sizes.append(limits.answer_tokens_max and limits.answer_tokens_max * BYTES_PER_TOKEN)
    bytes_max = min((size for size in sizes if size), default=None)
    if bytes_max is None and limits.answer_items_max is None:
        return None
    return PartLimits(bytes_max, limits.answer_items_max)


def _unpinned(sources: Mapping[str, Source]) -> str:
    """What to do where a source offers only what a person has accepted."""
    servers = [name for name, source in sources.items() if isinstance(source, UpstreamSource)]
    if not servers:
        return ""
    return f" Of an MCP server ({', '.join(servers)}) only accepted tools are defined; run `comptroller classify`."


def _seeks_what_is_not_stored(tool: Tool) -> bool:
    """Whether recovery would look for an effect key that the source does not keep, and take every call for undone."""
    rule = tool.config.recover
    return (
        rule is not None
        and not tool.definition.stores_effect_key
        and "call.effect_key" in paths_in(rule.arguments)
    )


_STRING = {"type": "string"}
_CALL_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"id": _STRING, "effect_key": _STRING},
    "required": ["id", "effect_key"],
}
_TASK_SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {"id": _STRING}, "required": ["id"]}
