"""Shapes of the packets of what people decide and operators change; those of calls are in shapes.py."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from comptroller_audit.shapes import OpenShape, Version
from comptroller_audit.vocabulary import RecordType

__all__ = [
    "OPERATOR_PACKETS",
    "ApprovalDecided",
    "ApproverAdded",
    "BundleActivated",
    "RolloutChanged",
    "StoreAdopted",
    "SwitchChanged",
]


class VoteView(OpenShape):
    approver: str
    yes: bool
    author: Annotated[bool, Field(description="they had edited what they vote on")] = False


class ApprovalDecided(OpenShape):
    """One person's yes or no, and the state of the approval after it."""

    v: Version
    approval: str
    call: str
    vote: VoteView
    state: str


class SwitchChanged(OpenShape):
    """A kill switch set or cleared; `switch_seq` orders it against every commit of the tenant."""

    v: Version
    switch: str
    reason: str
    by: str
    switch_seq: int


class RolloutChanged(OpenShape):
    """A tool was promoted or demoted, with the evidence counted until then. `call` is the one that broke it."""

    v: Version
    tool: str
    word: Literal["promoted", "demoted"]
    before: Annotated[int, Field(ge=0, le=100, description="percent in force until then")]
    percent: Annotated[int, Field(ge=0, le=100)]
    configured: Annotated[int, Field(ge=0, le=100, description="what the configuration says")]
    reason: str
    by: str
    call: str | None = None
    switch_seq: int
    evidence: dict[str, int]


class ApproverAdded(OpenShape):
    v: Version
    approver: str
    roles: list[str]
    added_by: str | None


class BundleActivated(OpenShape):
    """The config, policies and definitions in force from here on, by digest."""

    v: Version
    bundle: str


class StoreAdopted(OpenShape):
    """A person goes on with a store that does not reach what was signed: entries after `entries` are lost to it."""

    v: Version
    by: str
    reason: str
    entries: Annotated[int, Field(ge=0, description="entries of the log before this record")]
    signed_entries: Annotated[int, Field(ge=0, description="what the newest checkpoint had signed")]
    signed_root: Annotated[str, Field(description="its root, as hex")]
    switch_seq: int


OPERATOR_PACKETS: Mapping[RecordType, type[BaseModel]] = MappingProxyType(
    {
        RecordType.APPROVAL_DECIDED: ApprovalDecided,
        RecordType.SWITCH_SET: SwitchChanged,
        RecordType.SWITCH_CLEARED: SwitchChanged,
        RecordType.ROLLOUT_CHANGED: RolloutChanged,
        RecordType.APPROVER_ADDED: ApproverAdded,
        RecordType.BUNDLE_ACTIVATED: BundleActivated,
        RecordType.STORE_ADOPTED: StoreAdopted,
    }
)
