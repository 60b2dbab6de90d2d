"""State within a batch: what a refused unit wrote is gone, whether or not anybody had loaded the row before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from comptroller_audit.calls import CLAIMS
from comptroller_audit.database import Relation, Row
from comptroller_audit.unit import Head, Key, Refuse, State, Stop, Unit
from comptroller_audit.vocabulary import Code, Refusal

STORED: dict[str, Row] = {"a": {"call": "stored"}, "b": {"call": "stored"}}


@dataclass(frozen=True, slots=True)
class Write:
    """Part: write a row, which it names only if told to."""

    row_id: str
    call: str
    names: bool

    def keys(self) -> Iterable[Key]:
        return [(CLAIMS, self.row_id)] if self.names else []

    def apply(self, state: State) -> Stop | None:
        state.put(CLAIMS, self.row_id, {"call": self.call})
        return None


def load(_: Relation, ids: Sequence[str]) -> dict[str, Row]:
    return {row_id: STORED[row_id] for row_id in ids if row_id in STORED}


WRITES = st.lists(st.builds(Write, st.sampled_from("abc"), st.sampled_from(["x", "y"]), st.booleans()))


@example(kept=[], refused=[Write("a", "x", names=False)])
@given(kept=WRITES, refused=WRITES)
def test_a_refused_unit_leaves_every_row_as_the_units_before_it_did(
    kept: list[Write], refused: list[Write]
) -> None:
    state = State("t", Head(0, 0, 0, ""), load)
    state.preload(key for part in (*kept, *refused) for key in part.keys())  # noqa: SIM118 -- a method of Part
    state.run(Unit(kept))
    before = {relation.name: sorted(rows, key=str) for relation, rows in state.dirty().items()}
    state.run(Unit([*refused, Refuse(Refusal(Code.DENIED, "no", "never"))]))
    assert {relation.name: sorted(rows, key=str) for relation, rows in state.dirty().items()} == before
    written = STORED | {part.row_id: {"call": part.call} for part in kept}
    assert {row_id: state.get(CLAIMS, row_id) for row_id in "abc"} == {"c": None} | written
