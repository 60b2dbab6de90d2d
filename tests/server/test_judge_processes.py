"""A judge asked by a real server process: its key comes from the environment and leaves in one header only."""

from __future__ import annotations

from pathlib import Path

import pytest

from comptroller_tools.desk.database import ensure
from tests.scenarios.fake_judge import fake_judge, http
from tests.scenarios.kit import placed
from tests.scenarios.test_judges import KEY, judged
from tests.server.test_cli_processes import Place, code_of, invoices, refund

pytestmark = pytest.mark.anyio


async def test_a_judge_is_asked_by_a_server_process_and_its_key_is_seen_by_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    ensure(place.desk, 1)
    [invoice] = invoices(place, 1)
    async with fake_judge() as judge:
        placed(tmp_path, judged(judge))
        code, told, _ = await place.run("check")
        assert code == 1 and "JUDGE_KEY, which is not set" in told
        monkeypatch.setenv("JUDGE_KEY", KEY)
        async with place.client() as client:
            judge.says("no")
            refused = await client.call_tool("issue_refund", refund(invoice, 5))
            judge.reply = lambda _: http(500, KEY.encode())
            broken = await client.call_tool("issue_refund", refund(invoice, 5))
            judge.says("yes")
            done = await client.call_tool("issue_refund", refund(invoice, 5))
        assert [code_of(one) for one in (refused, broken, done)] == [
            "judge_refused",
            "judge_unavailable",
            None,
        ]
        assert place.refunds() == [invoice]
        assert [asked.headers["authorization"] for asked in judge.asked] == [f"Bearer {KEY}"] * 3
    assert KEY not in str((refused, broken, done))
    assert _files_with(tmp_path, KEY) == []


def _files_with(folder: Path, text: str) -> list[str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert folder / "server.log" in files
    return [file.name for file in files if text.encode() in file.read_bytes()]
