"""What the story does at its edges: no time left, a broken schema, defects, receipts and what is advertised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_server.call.intake import Intake
from comptroller_tools.source import Action, EffectHappened, Outcome
from tests.scenarios.kit import Faults, call_of, code_of, details_of, opened

pytestmark = pytest.mark.anyio


async def test_a_call_whose_time_is_over_before_it_starts_is_not_dispatched(tmp_path: Path) -> None:
    faults = Faults()
    async with opened(tmp_path, faults=faults) as shop:
        sent: list[Action] = []
        source: Any = shop.service.installation.sources["desk"]
        call = source.call

        async def watched(action: Action, deadline: float) -> Outcome:
            sent.append(action)
            outcome: Outcome = await call(action, deadline)
            return outcome

        source.call = watched
        faults.at["dispatch.before"] = lambda: shop.clock.pass_s(11)
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "timeout"
        assert details_of(answer)["retry"] == "same_call"
        assert shop.state(call_of(answer)) == "failed_before_effect"
        assert [action.tool for action in sent] == ["lookup_invoice"]


@pytest.mark.parametrize(
    "value", [{"refund_id": 7}, {}, [], "done", 7, None, {"refund_id": float("nan")}, {"x": object()}]
)
async def test_a_result_that_breaks_its_schema_is_withheld(
    tmp_path: Path, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as shop:
        source: Any = shop.service.installation.sources["desk"]
        call = source.call

        async def lying(action: Action, deadline: float) -> Outcome:
            outcome: Outcome = await call(action, deadline)
            return Outcome(EffectHappened.DONE, value) if action.tool == "issue_refund" else outcome

        monkeypatch.setattr(source, "call", lying)
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "output_invalid"
        assert answer.structured is None
        assert shop.state(call_of(answer)) == "handed_off"
        assert shop.packets(RecordType.AUDIT)[0]["output"] is None


async def test_a_source_that_raises_leaves_a_side_effect_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as shop:
        source: Any = shop.service.installation.sources["desk"]
        call = source.call

        async def raising(action: Action, deadline: float) -> Outcome:
            outcome: Outcome = await call(action, deadline)
            if action.tool == "issue_refund":
                raise ConnectionResetError
            return outcome

        monkeypatch.setattr(source, "call", raising)
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "in_doubt"
        assert shop.state(call_of(answer)) == "in_doubt"
        assert len(shop.moved()) == 1


async def test_a_defect_before_the_commit_is_a_refusal_that_shows_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("sk-not-for-any-wire")

    async with opened(tmp_path) as shop:
        monkeypatch.setattr(Intake, "_claims", broken)
        answer = await shop.refund(shop.paid()[0], 5)
        assert code_of(answer) == "internal"
        assert "sk-not" not in answer.text
        assert "comptroller/receipt" in answer.meta
        assert shop.moved() == []
        assert len(shop.packets(RecordType.REFUSED)) == 1


async def test_a_refusal_whose_record_cannot_be_composed_is_still_a_refusal(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        answer = await shop.call("search_tickets", query="x", limit=float("nan"))
        assert answer.is_error
        assert answer.structured is None
        assert shop.log(RecordType.READ) == []


async def test_every_answer_names_its_record_and_the_log_holds_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        answers = [
            await shop.call("search_tickets"),
            await shop.refund(shop.paid()[0], 5),
            await shop.refund(shop.paid()[0], 5),
            await shop.refund(shop.paid()[0], 30),
            await shop.refund(shop.paid()[0], 500),
        ]
        leaves = {entry.index: entry.leaf for entry in shop.log()}
        for answer in answers:
            receipt: Any = answer.meta["comptroller/receipt"]
            assert leaves[receipt["index"]] == receipt["leaf"]
        assert shop.calls(CallState.COMMITTED, CallState.PROPOSED) == []


async def test_a_read_is_advertised_with_refs_a_side_effect_with_why_and_resume_only_beside_one(
    tmp_path: Path,
) -> None:
    def reads_only(config: dict[str, Any]) -> None:
        config["budgets"] = {}
        config["tools"] = [tool for tool in config["tools"] if tool["allow_actions"] == ["read"]]

    async with opened(tmp_path) as shop:
        tools = {tool.name: tool for tool in shop.service.pipeline.listing(shop.subject)}
        assert "why" in tools["issue_refund"].input_schema["required"]
        output = tools["lookup_invoice"].output_schema
        assert output is not None
        assert "refs" in output["properties"]
        for name, tool in tools.items():
            assert shop.service.pipeline.input_schema(name) == tool.input_schema
        assert shop.service.pipeline.input_schema("nothing") is None
    (tmp_path / "reads").mkdir()
    async with opened(tmp_path / "reads", reads_only, bare=True) as shop:
        assert "resume_call" not in {tool.name for tool in shop.service.pipeline.listing(shop.subject)}
