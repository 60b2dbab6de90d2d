"""Kill switches as their table has them, held to the records that set and lifted them. Part of the verifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["SwitchRows"]

_SET, _LIFTED = "switch_set", "switch_cleared"


@dataclass(slots=True)
class SwitchRows:
    """What the records say of each switch. Rows are never removed, and no retention or pruning takes such a record."""

    met: int = 0
    """Records of switches, readable or not."""
    _read: int = 0
    _newest: dict[str, tuple[int, bool, int]] = field(default_factory=dict[str, tuple[int, bool, int]])
    """By switch: the sequence of its newest record, whether that set it, and its entry."""

    def meet(self, kind: object) -> bool:
        """Whether a record of this type is one of a switch; it is counted."""
        is_one = kind in (_SET, _LIFTED)
        self.met += is_one
        return is_one

    def read(self, index: int, kind: object, packet: Mapping[str, object]) -> None:
        """A record that was met, opened."""
        switch, seq = packet.get("switch"), packet.get("switch_seq")
        if isinstance(switch, str) and isinstance(seq, int):
            self._read += 1
            self._newest[switch] = (seq, kind == _SET, index)

    def wrong(self, rows: Mapping[str, tuple[int, bool]], *, all_there: bool) -> Iterator[str]:
        """What is wrong with `rows`: switch to (sequence, active). Unless the log is `all_there` and opened, a row may be newer."""
        sure = all_there and self._read == self.met
        for switch, (seq, was_set, index) in self._newest.items():
            did = f"entry {index} {'set' if was_set else 'lifted'} it"
            if switch not in rows:
                yield f"the switch {switch!r} is gone from its table, and {did}{_AGAIN if was_set else ''}"
                continue
            row_seq, active = rows[switch]
            if row_seq < seq or (row_seq == seq and active != was_set) or (row_seq > seq and sure):
                now = "active" if active else "not active"
                text = f"the switch {switch!r} is {now} in its table at change {row_seq}, and {did} at change {seq}"
                yield f"{text}{_AGAIN if was_set and not active else ''}"
        if sure:
            for switch in sorted(rows.keys() - self._newest.keys()):
                yield f"the switch {switch!r} is in its table, and no record set it"


_AGAIN = "; `comptroller halt` sets it again"
