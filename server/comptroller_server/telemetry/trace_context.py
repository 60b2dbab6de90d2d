"""W3C trace context (https://www.w3.org/TR/trace-context/): which trace a call is part of, and what its spans are called.

Ids are worked out from the attempt's, so that the record leads to the trace and nothing has to be kept in between.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["TRACEPARENT", "TraceContext", "header_in", "trace_of"]

TRACEPARENT = "traceparent"
"""The header of HTTP, and the member of `_meta` (SEP-414)."""
_FORMAT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_LOW = 2**64


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One attempt in its trace, in lower-case hex: 32 digits the trace, 16 a span. `parent` is empty for a trace of ours."""

    trace: str
    span: str
    parent: str

    def step(self, number: int) -> str:
        """The id of the attempt's step `number`."""
        return _digest(f"{self.trace}/{self.span}/{number}")[:16]

    def is_sampled(self, share: float) -> bool:
        """Whether the trace is among the `share` that is told of. Every service that samples by the id agrees.

        What a client says about sampling counts for nothing: it would decide how much is sent.
        """
        return int(self.trace[16:], 16) < share * _LOW

    def below(self, number: int, share: float) -> str:
        """The `traceparent` for work that is part of step `number`, sampled as the `share` of traces is."""
        return f"00-{self.trace}-{self.step(number)}-{int(self.is_sampled(share)):02x}"


def trace_of(meta: Mapping[str, Any], header: str | None, attempt: str) -> TraceContext:
    """The trace that a request names, in `_meta` or else in its header; one of its own where neither is sound."""
    span = _digest(f"span/{attempt}")[:16]
    for text in (meta.get(TRACEPARENT), header):
        found = _FORMAT.fullmatch(text) if isinstance(text, str) and len(text) <= 200 else None
        if found is not None and _is_sound(*found.groups()):
            return TraceContext(found[2], span, found[3])
    return TraceContext(_digest(f"trace/{attempt}")[:32], span, "")


def header_in(scope: Mapping[str, Any]) -> str | None:
    """The `traceparent` of an ASGI request, if it came once."""
    headers = cast("list[tuple[bytes, bytes]]", scope.get("headers", []))
    values = [value for name, value in headers if name == TRACEPARENT.encode()]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _is_sound(version: str, trace: str, parent: str, more: str | None) -> bool:
    return version != "ff" and (version != "00" or more is None) and trace != _NO_TRACE and parent != _NO_SPAN


def _digest(text: str) -> str:
    return hashlib.sha256(f"comptroller/trace/{text}".encode()).hexdigest()
