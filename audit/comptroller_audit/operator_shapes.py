"""Shapes of the packets of what people decide and operators change; those of calls are in shapes.py."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from comptroller_audit.shapes import OpenShape, Version
from comptroller_audit.vocabulary import RecordType

__all__ = [
    "OPERATOR_PACKETS",
    "ApprovalDecided",
    "ApproverAdded",
    "BundleActivated",
    "HoldLifted",
    "HoldPlaced",
    "KeysChanged",
    "RolloutChanged",
    "StoreAdopted",
    "StreamReset",
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


class BundleContent(OpenShape):
    """What a bundle is made of, but for what stands in the sources themselves. Nothing of where a store or a secret is."""

    document: Annotated[
        dict[str, Any], Field(description="the configuration, all files as one, without `store`")
    ]
    policies: Annotated[list[dict[str, str]], Field(description="`name` and `text` of each policy file")]
    pins: Annotated[dict[str, Any] | None, Field(description="the lock file, where there is one")]


class BundleActivated(OpenShape):
    """The config, policies and definitions in force from here on, by digest."""

    v: Version
    bundle: str
    before: Annotated[str, Field(description="the bundle in force until then; empty for the first")] = ""
    how: Annotated[
        Literal["served", "activated", "rolled_back"],
        Field(description="a server started with it, or a person put it in force"),
    ] = "served"
    by: Annotated[str, Field(description="who; empty for a server that started")] = ""
    reason: str = ""
    policy: Annotated[str, Field(description="every rule as Cedar")] = ""
    content: Annotated[
        BundleContent | None,
        Field(description="null where a secret stands in the texts: such a bundle is not kept"),
    ] = None


class StoreAdopted(OpenShape):
    """A person goes on with a store that does not reach what was signed: entries after `entries` are lost to it."""

    v: Version
    by: str
    reason: str
    entries: Annotated[int, Field(ge=0, description="entries of the log before this record")]
    signed_entries: Annotated[
        int,
        Field(ge=0, description="what the newest checkpoint had signed; 0 where no key can tell any more"),
    ]
    signed_root: Annotated[str, Field(description="its root, as hex")]
    switch_seq: int


class StreamReset(OpenShape):
    """A person sent a stream on from another place of the log; what lies between is sent again, or is left out."""

    v: Version
    stream: str
    before: Annotated[int, Field(ge=0, description="the entry it would have sent next")]
    position: Annotated[int, Field(ge=0, description="the entry it sends next")]
    by: str


class KeysChanged(OpenShape):
    """A key of the key file came or went; the file is changed after this record. Ids only, never a key."""

    v: Version
    what: Literal["rotated", "dropped"]
    kind: Literal["seal", "checkpoint"]
    key: Annotated[str, Field(description="the new key, or the one that was dropped")]
    before: Annotated[str, Field(description="the key that sealed or signed until then")]
    by: str
    reason: str


class HoldPlaced(OpenShape):
    """A legal hold: what it names is erased by nobody until it is lifted."""

    v: Version
    hold: str
    kind: Literal["call", "task", "principal", "time"]
    value: Annotated[
        str, Field(description="the id of the call or task, or the principal; empty for a span of time")
    ]
    first_ms: Annotated[int | None, Field(description="entries recorded from this moment on")] = None
    end_ms: Annotated[int | None, Field(description="and before this one")] = None
    by: str
    reason: str


class HoldLifted(OpenShape):
    """A legal hold is over; retention goes on where it had stopped for it."""

    v: Version
    hold: str
    by: str
    reason: str


OPERATOR_PACKETS: Mapping[RecordType, type[BaseModel]] = MappingProxyType(
    {
        RecordType.APPROVAL_DECIDED: ApprovalDecided,
        RecordType.SWITCH_SET: SwitchChanged,
        RecordType.SWITCH_CLEARED: SwitchChanged,
        RecordType.ROLLOUT_CHANGED: RolloutChanged,
        RecordType.APPROVER_ADDED: ApproverAdded,
        RecordType.BUNDLE_ACTIVATED: BundleActivated,
        RecordType.STORE_ADOPTED: StoreAdopted,
        RecordType.STREAM_RESET: StreamReset,
        RecordType.KEYS_CHANGED: KeysChanged,
        RecordType.HOLD_PLACED: HoldPlaced,
        RecordType.HOLD_LIFTED: HoldLifted,
    }
)
