"""Sentences and rows that the terminal and the page share."""

from __future__ import annotations

import math
from fractions import Fraction

from comptroller_audit.report import Report, Waiting

__all__ = ["containment_lines", "share", "waiting_rows"]


def containment_lines(found: Report) -> list[str]:
    """What ran, whether every one of them was allowed on record, and what was stopped."""
    calls = found.calls
    lines = [f"{calls.stopped_count} attempts were stopped"]
    if calls.ran:
        lines.insert(
            0, f"{calls.proved} of {calls.ran} calls that ran have a recorded decision that allowed them"
        )
    if calls.outside:
        lines.append(f"{calls.outside} RAN OUTSIDE POLICY: {', '.join(calls.suspects)}")
    if calls.unproved:
        lines.append(
            f"{calls.unproved} cannot be proved any more, because retention has erased their decisions; choose "
            "--since within logging.retention_days"
        )
    return lines


def share(part: Fraction) -> str:
    """A percentage, rounded down: what is not whole never reads as the whole."""
    places = 1 if part < Fraction("0.999") else 4
    return f"{math.floor(part * 100 * 10**places) / 10**places:.{places}f}".rstrip("0").rstrip(".") + "%"


def waiting_rows(found: Report) -> list[tuple[str, Waiting]]:
    now = found.now
    return [
        ("waiting for a person's yes", now.approvals),
        ("approved and not resumed", now.approved),
        ("in doubt", now.in_doubt),
        ("hand-offs open", now.handoffs),
    ]
