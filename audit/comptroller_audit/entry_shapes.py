"""What every entry of the log is made of, whatever its packet: the envelope that is hashed and the sealed payload."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from comptroller_audit.shapes import Free, Hex64, OpenShape, Version
from comptroller_audit.vocabulary import RecordType

__all__ = ["Envelope", "Payload"]


class Envelope(OpenShape):
    """What the tree's leaf hashes are made of (`build_envelope`). `erases` stands in entries of type `erased`, `prunes` in those of type `pruned`."""

    v: Version
    i: Annotated[int, Field(ge=0, description="index in the tenant's log")]
    t: Annotated[
        int, Field(ge=0, description="record time, milliseconds since the Unix epoch; never decreases")
    ]
    tenant: str
    type: RecordType
    payload: Annotated[Hex64, Field(description="SHA-256 of the sealed payload's bytes")]
    call: str | None = None
    attempt: str | None = None
    task: str | None = None
    arguments: Annotated[Hex64 | None, Field(description="HMAC-SHA-256 of the canonical arguments")] = None
    output: Annotated[Hex64 | None, Field(description="HMAC-SHA-256 of the canonical output")] = None
    erases: Annotated[list[tuple[int, int]] | None, Field(description="spans first..last, inclusive")] = None
    prunes: Annotated[list[tuple[int, int]] | None, Field(description="spans first..last, inclusive")] = None


class Payload(OpenShape):
    """The plaintext of a sealed payload (`build_payload`)."""

    v: Version
    hmac_key: Annotated[str, Field(description="base64 of the 32-byte key of the envelope's HMACs")]
    packet: Free
