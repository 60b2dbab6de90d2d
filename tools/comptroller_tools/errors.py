"""Errors of tools.

ComptrollerError
└── ToolError
    ├── NotDone           a tool's own word that nothing happened (raised by tool authors)
    │   └── TryAgain      … and that the same call may succeed in a moment
    ├── SchemaInvalid     a JSON Schema cannot be used to check values
    ├── SourceInvalid     a source or a definition does not load; the message names the config field
    ├── ProvenanceBroken  what a task has seen cannot be read (provenance.py)
    └── RecordPathError   a declared record, fact or expectation does not fit the tool's output
"""

from comptroller_audit.vocabulary import ComptrollerError

__all__ = [
    "NotDone",
    "ProvenanceBroken",
    "RecordPathError",
    "SchemaInvalid",
    "SourceInvalid",
    "ToolError",
    "TryAgain",
]


class ToolError(ComptrollerError):
    """Root of this folder's errors."""


class NotDone(ToolError):
    """Raise this from a tool function to say: nothing was changed, and this is why.

    The text is shown to the model. Any other exception after dispatch leaves a side effect in doubt.
    """


class TryAgain(NotDone):
    """Nothing was changed, and the same call may succeed in a moment: a lock was taken, a system is restarting.

    With `limits.retries_max` the call is made again within its deadline.
    """


class SourceInvalid(ToolError):
    """A source, a tool function or its types cannot be offered."""


class SchemaInvalid(ToolError):
    """A JSON Schema is malformed, too deep, or refers to something outside itself."""


class ProvenanceBroken(ToolError):
    """What is stored of what a task has seen is not what was written for it: nothing may be decided by it."""


class RecordPathError(ToolError):
    """A path that the config declares does not exist in what the tool returned."""
