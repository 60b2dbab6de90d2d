"""What the official suite said, read from its own output: a row for each scenario, and the table of `docs/conformance.md`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Row", "complaints", "rows", "table", "with_table"]

_SUMMARY = re.compile(r"^[✓✗] (?P<name>\S+): (?P<passed>\d+) passed, (?P<failed>\d+) failed", re.MULTILINE)
_NOT_SCORED = re.compile(r"^  [✓✗] (?P<name>\S+) \((?P<why>[\w-]+)\)$", re.MULTILINE)
_BEGIN, _END = "<!-- table: written by make conformance -->", "<!-- end of table -->"


@dataclass(frozen=True, slots=True)
class Row:
    """A scenario of one revision; `not_scored` is the suite's reason why it does not count, empty where it is required."""

    scenario: str
    passed: int
    failed: int
    not_scored: str

    @property
    def cell(self) -> str:
        """How it stands in the table."""
        said = (
            f"**fails** ({self.failed} of {self.passed + self.failed})"
            if self.failed
            else f"passes ({self.passed})"
        )
        if not self.passed + self.failed:
            said = "checks nothing"
        return f"{said}; not scored: {self.not_scored}" if self.not_scored else said


def rows(output: str) -> list[Row]:
    """The scenarios that a run's standard output sums up, in its order; none where it never came to its summary."""
    not_scored = {found["name"]: found["why"] for found in _NOT_SCORED.finditer(output)}
    return [
        Row(found["name"], int(found["passed"]), int(found["failed"]), not_scored.get(found["name"], ""))
        for found in _SUMMARY.finditer(output)
    ]


def complaints(folder: Path) -> list[str]:
    """`check: message` for each check that failed, of the results the suite left in `folder`."""
    checks = [
        check for file in sorted(folder.glob("*/checks.json")) for check in json.loads(file.read_text())
    ]
    return [
        f"{check['id']}: {check.get('errorMessage', '')}" for check in checks if check["status"] == "FAILURE"
    ]


def table(results: Mapping[str, Sequence[Row]]) -> str:
    """The results of each revision side by side, in Markdown; scenarios in the order in which they first came."""
    cells = {revision: {row.scenario: row.cell for row in found} for revision, found in results.items()}
    scenarios = dict.fromkeys(row.scenario for found in results.values() for row in found)
    lines = [f"| scenario | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    lines += [
        f"| `{name}` | {' | '.join(cells[each].get(name, '') for each in results)} |" for name in scenarios
    ]
    return "\n".join(lines)


def with_table(page: str, new: str) -> str:
    """`page` with `new` where its table stood. Raises `ValueError` where it has no place for one."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(
            f"docs/conformance.md has no place for the table; put '{_BEGIN}' and '{_END}' into it"
        )
    return f"{before}{begin}\n{new}\n{end}{after}"
