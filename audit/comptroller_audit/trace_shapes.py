"""What the records of trace levels and of retention hold; joined with the other shapes in published.py."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from comptroller_audit.shapes import Free, OpenShape, Version
from comptroller_audit.vocabulary import RecordType

__all__ = ["TRACE_PACKETS"]


class _TracePacket(OpenShape):
    """What a trace level tells of one call beside its packets; at most 64 entries, `left_out` counts the rest."""

    v: Version
    call: str
    attempt: str
    task: str
    left_out: int


class HandOver(OpenShape):
    tool: str
    source: str
    took_ms: float
    bytes_in: Annotated[int | None, Field(description="canonical bytes of the arguments")]
    bytes_out: int | None
    effect: str
    error: str | None


class TraceToolCalls(_TracePacket):
    """`logging.trace_level: tool_calls`: each hand-over to a source."""

    entries: list[HandOver]


class LookedUp(OpenShape):
    """A look-up of Comptroller's own has `fact`, `took_ms`, `found` and `error`; what was released has `refs`."""

    tool: str


class TraceRetrieval(_TracePacket):
    """`logging.trace_level: retrieval`: what was read to decide, and what the model was shown as records."""

    entries: list[LookedUp]


class Asked(OpenShape):
    stage: Literal["early", "before", "after"]
    asked: Annotated[Free, Field(description="the question to policy, whole")]
    policies: Annotated[list[str], Field(description="the policies that were asked")]
    verdict: str
    decided_by: list[str]
    errors: list[str]


class TraceDecisions(_TracePacket):
    """`logging.trace_level: decisions`: every question to policy and its answer."""

    entries: list[Asked]


class Erased(OpenShape):
    """Payloads whose time is over, or that were about somebody, were erased; the spans stand in the envelope, where anyone may read them."""

    v: Version
    why: str
    payloads: int
    before_ms: Annotated[int, Field(description="entries recorded before this moment")]
    subject: Annotated[
        str | None, Field(description="keyed digest of whom they were about, where a person asked for it")
    ] = None
    by: str | None = None
    reason: str | None = None


class Pruned(OpenShape):
    """Envelopes whose payloads are gone were pruned: their leaves stay in the tree, under a checkpoint that was signed before.

    The spans stand in the envelope (`prunes`), where anyone may read them.
    """

    v: Version
    entries: int
    before_ms: Annotated[int, Field(description="entries recorded before this moment")]
    signed_entries: Annotated[int, Field(description="what the checkpoint over them had signed")]
    signed_root: Annotated[str, Field(description="its root, as hex")]


class ClockAccepted(OpenShape):
    """A person says that the clock is right again after a jump; retention goes on."""

    v: Version
    at_ms: int
    before_ms: int | None
    by: str


TRACE_PACKETS: Mapping[RecordType, type[BaseModel]] = MappingProxyType(
    {
        RecordType.TRACE_TOOL_CALLS: TraceToolCalls,
        RecordType.TRACE_RETRIEVAL: TraceRetrieval,
        RecordType.TRACE_DECISIONS: TraceDecisions,
        RecordType.ERASED: Erased,
        RecordType.PRUNED: Pruned,
        RecordType.CLOCK_ACCEPTED: ClockAccepted,
    }
)
