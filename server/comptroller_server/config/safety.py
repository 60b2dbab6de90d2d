"""`retrieval:` and `safety:`: which reads a side effect may rely on and must show, and what nobody may see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from comptroller_audit.patterns import CREDENTIALS, Pattern
from comptroller_audit.vocabulary import Effect
from comptroller_server.config.paths import KeyPath
from comptroller_tools.citing import CitationTerms
from comptroller_tools.declarations import ToolConfig

__all__ = ["RetrievalConfig", "SafetyConfig", "cache_findings", "citation_terms", "unknown_sources"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RetrievalConfig(_Section):
    """`retrieval:` whose reads give refs that can be cited, and for how many minutes after the read."""

    sources: tuple[str, ...] | None = Field(default=None, min_length=1)
    freshness_sla_minutes: float | None = Field(default=None, gt=0, le=525_600)


class SafetyConfig(_Section):
    """`safety:` which personal data is looked for in all that leaves, and what is demanded of every side effect.

    Credentials are looked for, unless that is turned off.
    """

    pii_redaction: tuple[Pattern, ...] = Field(default=(), max_length=len(Pattern))
    withhold_credentials: bool = True
    require_citations: bool = False

    @property
    def patterns(self) -> frozenset[Pattern]:
        """What is looked for. Naming `api_key` looks for credentials, whatever the other key says."""
        always = (CREDENTIALS,) if self.withhold_credentials else ()
        return frozenset((*self.pii_redaction, *always))


def citation_terms(retrieval: RetrievalConfig, safety: SafetyConfig) -> CitationTerms:
    sources, fresh = retrieval.sources, retrieval.freshness_sla_minutes
    return CitationTerms(
        required=safety.require_citations,
        sources=frozenset(sources) if sources is not None else None,
        fresh_ms=round(fresh * 60_000) if fresh is not None else None,
    )


def unknown_sources(retrieval: RetrievalConfig, sources: Sequence[str]) -> Iterator[tuple[KeyPath, str]]:
    """Names in `retrieval.sources` that no source has: nothing of theirs could be cited."""
    known = ", ".join(f"`{name[:80]}`" for name in sources[:12])
    for at, name in enumerate(retrieval.sources or ()):
        if name not in sources:
            advice = f"use one of {known}" if known else "declare it first"
            yield ("retrieval", "sources", at), f"is `{name[:80]}`, which names no source; {advice}"


def cache_findings(tool: ToolConfig, retrieval: RetrievalConfig) -> Iterator[tuple[KeyPath, str]]:
    """Where `cache_s` stands at what is not simply read, or outlives what a ref of it is good for."""
    fresh = retrieval.freshness_sla_minutes
    if tool.cache_s is None:
        return
    if tool.effect is not Effect.READ:
        yield ("cache_s",), "stands at a tool that is no read; only results of reads are kept, so remove it"
    elif tool.cost_usd is not None or tool.units:
        yield ("cache_s",), "stands at a read that costs something, and each such read is made; remove one"
    elif fresh is not None and tool.cache_s > fresh * 30:
        text = f"is more than half of `retrieval.freshness_sla_minutes`, so its refs are soon too old; use {fresh * 30:g} at most"
        yield ("cache_s",), text
