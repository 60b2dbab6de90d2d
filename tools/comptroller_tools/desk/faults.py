"""Telling the desk to misbehave, from another process: `<desk file>.faults.json`, read again on every call.

    [{"tool": "issue_refund", "kind": "fail_after", "when": {"invoice_id": "inv_k3v8m2qa"}, "times": 1}]

A fault applies to calls of `tool` (`*` is all) whose arguments have every value in `when`. `skip` lets that many
go by first and `times` ends it after that many; both count in each process from the file's last change. A file
that does not parse stops the desk: a test must not run without the fault it asked for.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from comptroller_tools.errors import NotDone, TryAgain

__all__ = [
    "Fault",
    "FaultKind",
    "Faults",
    "InjectedFault",
    "Point",
    "clear_faults",
    "faults_file",
    "set_faults",
]

WAIT_S_MAX = 600.0
POLL_S = 0.01


class FaultKind(StrEnum):
    SLOW = "slow"
    """Wait `seconds` at `point`, then go on."""
    HANG = "hang"
    """Wait at `point` until the file `until` appears (or ten minutes). With `reached` that file is written first."""
    RAISE = "raise"
    """Raise an ordinary exception at `point`: before the write, inside its transaction, or after it."""
    REFUSE = "refuse"
    """Say `NotDone`, nothing written."""
    BUSY = "busy"
    """Say `TryAgain`, nothing written."""
    KILL = "kill"
    """SIGKILL this process at `point`."""
    SHORT = "short"
    """A refund moves `cents` less than the answer says."""
    WRONG_INVOICE = "wrong_invoice"
    """A refund is booked on `other`, and the answer names the invoice that was asked for."""
    WRONG_TARGET = "wrong_target"
    """A write other than `issue_refund` lands on `other` (a record's id, or an address), and the answer names what
    was asked for."""
    ALTERED = "altered"
    """A write without money stores `other` (a text, status or role), and the answer says what was asked for."""
    NOT_WRITTEN = "not_written"
    """A write answers as if done and writes nothing."""
    WRONG_RECORD = "wrong_record"
    """A look-up answers with the record `other`."""
    FLOOD = "flood"
    """The answer carries `bytes` of text."""
    LIE = "lie"
    """The answer is not of the declared type."""


class Point(StrEnum):
    """Where in a tool. `IN_WRITE` is inside the transaction, all rows written, not committed."""

    BEFORE_WRITE = "before_write"
    IN_WRITE = "in_write"
    AFTER_WRITE = "after_write"


class Fault(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str
    kind: FaultKind
    point: Point = Point.BEFORE_WRITE
    when: dict[str, Any] = Field(default_factory=dict)
    skip: int = Field(default=0, ge=0)
    times: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=1.0, ge=0, le=WAIT_S_MAX)
    until: Path | None = None
    reached: Path | None = None
    cents: int = 1
    other: str | None = None
    bytes: int = Field(default=1_000_000, ge=0, le=1_000_000_000)


class InjectedFault(RuntimeError):
    """What a `raise` fault raises: to a source, an exception like any other."""


_FAULTS = TypeAdapter(list[Fault])


def faults_file(desk: Path) -> Path:
    return desk.with_name(desk.name + ".faults.json")


def set_faults(desk: Path, faults: Iterable[Fault]) -> None:
    """Replace the desk's faults; every process sees them from its next call on."""
    target = faults_file(desk)
    fresh = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
    fresh.write_bytes(_FAULTS.dump_json(list(faults), exclude_defaults=True))
    fresh.replace(target)


def clear_faults(desk: Path) -> None:
    faults_file(desk).unlink(missing_ok=True)


@dataclass(slots=True)
class _Counts:
    """How often each fault of one version of a file has matched in this process."""

    version: tuple[int, int, int]
    faults: list[Fault]
    matched: dict[int, int] = field(default_factory=dict[int, int])


_counts: dict[Path, _Counts] = {}
_lock = threading.Lock()


class Faults:
    """The faults of one tool call."""

    def __init__(self, desk: Path, tool: str, arguments: Mapping[str, Any]) -> None:
        self._active = _active(desk, tool, arguments)

    def at(self, point: Point) -> None:
        """Do what is asked at `point`: wait, raise, or end the process."""
        for fault in self._active:
            if fault.point is point:
                _act(fault)

    def find(self, kind: FaultKind) -> Fault | None:
        """The first fault of `kind`, for those that change a value rather than the flow."""
        return next((fault for fault in self._active if fault.kind is kind), None)


def _active(desk: Path, tool: str, arguments: Mapping[str, Any]) -> list[Fault]:
    file = faults_file(desk)
    try:
        state = file.stat()
    except FileNotFoundError:
        return []
    version = (state.st_mtime_ns, state.st_ino, state.st_size)
    with _lock:
        counts = _counts.get(file)
        if counts is None or counts.version != version:
            counts = _counts[file] = _Counts(version, _FAULTS.validate_json(file.read_bytes()))
        return [
            fault for index, fault in enumerate(counts.faults) if _due(counts, index, fault, tool, arguments)
        ]


def _due(counts: _Counts, index: int, fault: Fault, tool: str, arguments: Mapping[str, Any]) -> bool:
    if fault.tool not in (tool, "*") or any(arguments.get(key) != value for key, value in fault.when.items()):
        return False
    before = counts.matched.get(index, 0)
    counts.matched[index] = before + 1
    return before >= fault.skip and (fault.times is None or before < fault.skip + fault.times)


def _act(fault: Fault) -> None:
    if fault.kind is FaultKind.SLOW:
        time.sleep(fault.seconds)
    elif fault.kind is FaultKind.HANG:
        _hang(fault)
    elif fault.kind is FaultKind.RAISE:
        raise InjectedFault(f"the desk was told to fail at {fault.point}")
    elif fault.kind is FaultKind.REFUSE:
        raise NotDone("The desk is closed for maintenance; nothing was changed. Try again later.")
    elif fault.kind is FaultKind.BUSY:
        raise TryAgain("Another program holds the desk's books. Nothing was changed.")
    elif fault.kind is FaultKind.KILL:
        os.kill(os.getpid(), signal.SIGKILL)


def _hang(fault: Fault) -> None:
    if fault.reached is not None:
        fault.reached.touch()
    end = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end and not (fault.until is not None and fault.until.exists()):
        time.sleep(POLL_S)
