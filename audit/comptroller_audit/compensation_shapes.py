"""The packet that tells what became of a call that was to be reversed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel

from comptroller_audit.shapes import OpenShape, RefusalView, Version
from comptroller_audit.vocabulary import CallState, RecordType

__all__ = ["COMPENSATION_PACKETS", "Compensation"]


class Compensation(OpenShape):
    """`compensated`, or `handed_off`. `by` is the call that reversed it; null when none began."""

    v: Version
    call: str
    state: CallState
    by: str | None
    tool: str
    problem: RefusalView | None = None


COMPENSATION_PACKETS: Mapping[RecordType, type[BaseModel]] = MappingProxyType(
    {RecordType.COMPENSATION: Compensation}
)
