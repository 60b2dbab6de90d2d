"""Errors of the record.

ComptrollerError
└── AuditError
    ├── CanonicalError       a value has no canonical bytes (canonical.py)
    ├── StoreError
    │   ├── StoreUnavailable a unit could not be made durable: nothing of it happened
    │   │   └── CommitUnknown  the database went away during the commit: it stands or it does not
    │   ├── StoreUnsuitable  the file or server cannot keep the promises (network folder, old schema)
    │   └── StoreClosed      a commit after close
    ├── KeyRingError         the key file is missing, readable by others, or lacks a key
    ├── SealBroken           a payload is not what was sealed at its place (sealing.py)
    ├── CheckpointError      a checkpoint cannot be signed, opened, written or read (checkpoint.py)
    ├── EvidenceError        what the verifier was given cannot be read (evidence.py, verify.py)
    ├── LogDamaged           the stored tree contradicts itself (log.py)
    ├── FieldRuleError       a field rule has a bad path, kind or audience (fields.py)
    ├── TokenBookError       a token book is of another task, or damaged (tokens.py)
    └── TransitionError      a call state move that the state machine does not allow
"""

from comptroller_audit.vocabulary import ComptrollerError

__all__ = [
    "AuditError",
    "CanonicalError",
    "CheckpointError",
    "CommitUnknown",
    "EvidenceError",
    "FieldRuleError",
    "KeyRingError",
    "LogDamaged",
    "SealBroken",
    "StoreClosed",
    "StoreError",
    "StoreUnavailable",
    "StoreUnsuitable",
    "TokenBookError",
    "TransitionError",
]


class AuditError(ComptrollerError):
    """Root of this folder's errors."""


class CanonicalError(AuditError):
    """A value has no canonical bytes; the message names the path and the fix."""


class StoreError(AuditError):
    """Root of the store's errors."""


class StoreUnavailable(StoreError):
    """A unit could not be made durable. Nothing of it happened; it may be tried again."""


class CommitUnknown(StoreUnavailable):
    """The database went away while it committed. Look (by the call's id) before anything of it is tried again."""


class StoreUnsuitable(StoreError):
    """The file or server cannot keep the store's promises."""


class StoreClosed(StoreError):
    """A commit was asked of a closed store."""


class KeyRingError(AuditError):
    """The key file is missing, readable by others, malformed, or lacks the key a record needs."""


class TransitionError(AuditError):
    """A move between call states that `calls.TRANSITIONS` does not allow. A programming error, never an outcome."""


class SealBroken(AuditError):
    """A payload is not what was sealed for this tenant at this index."""


class LogDamaged(AuditError):
    """The stored tree contradicts itself. Appending would hide it, so nothing is appended."""


class CheckpointError(AuditError):
    """A checkpoint cannot be signed, opened, written or read."""


class EvidenceError(AuditError):
    """The verifier was given a file, key or address it cannot read. Nothing was verified."""


class FieldRuleError(AuditError):
    """A field rule, or a mark in a schema, has a path, kind or audience that cannot be."""


class TokenBookError(AuditError):
    """A token book was written for another task, with another key, or is damaged. Nothing of it resolves."""
