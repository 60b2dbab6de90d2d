"""Which citations a side effect needs, which records can be cited at all, and what models are told of both.

A citation is a ref of a record that was read, and released, in the same task. `tools[].cites` and
`safety.require_citations` ask for them; `retrieval` says whose reads count and for how long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from comptroller_audit.vocabulary import Effect
from comptroller_policy.errors import Finding
from comptroller_tools.declarations import ToolConfig

__all__ = [
    "ANY_CITATION",
    "CitationTerms",
    "age",
    "citable_kinds",
    "citation_findings",
    "citation_note",
    "facts_about",
    "kinds_read",
    "needs_citation",
    "one",
    "record_kind",
    "span",
]

NOTE_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class CitationTerms:
    """What holds for every tool. `sources` are those whose records can be cited, None for all of them;
    `fresh_ms` is how long after its read a ref can be cited, None for the whole task."""

    required: bool = False
    sources: frozenset[str] | None = None
    fresh_ms: int | None = None

    def may_cite(self, source: str) -> bool:
        return self.sources is None or source in self.sources


ANY_CITATION = CitationTerms()
"""Nothing is demanded, and every ref of the task can be cited."""


def needs_citation(config: ToolConfig, terms: CitationTerms) -> bool:
    return config.effect is not Effect.READ and (terms.required or bool(config.cites))


def record_kind(config: ToolConfig) -> str | None:
    """The kind of the record that a call acts on."""
    return config.resource.partition(":")[0] if config.resource is not None else None


def kinds_read(config: ToolConfig) -> frozenset[str]:
    """The kinds of record this tool shows singly. A line in a list is not a record that was read."""
    return frozenset(rule.kind for rule in config.records if "[]" not in rule.id)


def citable_kinds(
    tools: Iterable[tuple[ToolConfig, str]], terms: CitationTerms
) -> dict[str, tuple[str, ...]]:
    """Each kind that can be cited, with the tools that show it; `tools` come with the names of their sources."""
    found: dict[str, tuple[str, ...]] = {}
    for config, source in tools:
        if terms.may_cite(source):
            for kind in sorted(kinds_read(config)):
                found[kind] = (*found.get(kind, ()), config.name)
    return found


def facts_about(config: ToolConfig, tools: Mapping[str, ToolConfig], kinds: Iterable[str]) -> frozenset[str]:
    """The tool's declared facts that show a record of one of these kinds."""
    wanted = frozenset(kinds)
    return frozenset(
        name
        for name, fact in config.facts.items()
        if fact.tool in tools and not wanted.isdisjoint(kinds_read(tools[fact.tool]))
    )


def citation_note(config: ToolConfig, terms: CitationTerms) -> str:
    """What the tool's description says of citations: nothing, or at most NOTE_CHARS_MAX characters."""
    if not needs_citation(config, terms):
        return ""
    own = record_kind(config)
    wanted = [f"the {own} it acts on"] if own is not None else []
    wanted += [one(kind) for kind in config.cites if kind != own]
    fresh = f", no older than {span(terms.fresh_ms)}" if terms.fresh_ms is not None else ""
    note = "Needs `why.citations`: refs that reads gave you in this task{}{}. Refs from lists do not count."
    told = note.format(f", of {' and of '.join(wanted)}" if wanted else "", fresh)
    return told if len(told) <= NOTE_CHARS_MAX else note.format("", fresh)


def one(kind: str) -> str:
    """`an invoice`, `a ticket`."""
    return f"{'an' if kind.lstrip('`')[:1].lower() in ('a', 'e', 'i', 'o', 'u') else 'a'} {kind}"


def span(ms: int) -> str:
    """A span as people say it: `5 minutes`, `90 s`."""
    if ms % 60_000:
        return f"{ms / 1000:g} s"
    return f"{ms // 60_000} minute{'' if ms == 60_000 else 's'}"


def age(ms: int) -> str:
    """How long ago: whole seconds, or whole minutes from two of them on."""
    unit = 60_000 if ms >= 120_000 else 1_000
    return span(ms // unit * unit) if ms >= 1_000 else "less than a second"


def citation_findings(tools: Iterable[tuple[ToolConfig, str]], terms: CitationTerms) -> Iterator[Finding]:
    """Demands that no call could ever meet, each at its place in the config."""
    known = list(tools)
    kinds = citable_kinds(known, terms)
    for config, _ in known:
        where = f"tools.{config.name}"
        if config.cites and config.effect is Effect.READ:
            yield Finding(
                f"{where}.cites", "is for side effects: a read says no `why` to cite in; remove it."
            )
            continue
        if config.cites and not config.why:
            yield Finding(
                f"{where}.why", "cannot be false beside `cites`: citations stand in `why`; remove it."
            )
        for kind in dict.fromkeys(config.cites):
            if not _others(kinds, kind, config.name):
                yield Finding(
                    f"{where}.cites", f"no call could ever cite {one(f'`{kind}`')}: {_nobody(terms)}"
                )
        own = record_kind(config)
        acted_on = own is not None and own not in config.cites and needs_citation(config, terms)
        if acted_on and not _others(kinds, str(own), config.name):
            text = f"calls must cite the `{own}` they act on, and none ever could: {_nobody(terms)}"
            yield Finding(f"{where}.resource", text)
    if terms.required and not kinds and any(config.effect is not Effect.READ for config, _ in known):
        text = f"no side effect could ever run: {_nobody(terms)}"
        yield Finding("safety.require_citations", text)


def _others(kinds: Mapping[str, tuple[str, ...]], kind: str, tool: str) -> bool:
    """Whether some other tool shows the kind: what only the call itself shows cannot be cited in it."""
    return any(name != tool for name in kinds.get(kind, ()))


def _nobody(terms: CitationTerms) -> str:
    among = " of the sources in `retrieval.sources`" if terms.sources is not None else ""
    return (
        f"no other tool{among} shows a single one to cite; give the tool that reads it "
        "`records: [{kind: …, id: …}]` without a list in `id`."
    )
