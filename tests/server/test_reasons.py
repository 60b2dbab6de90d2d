"""What a person gives as a reason goes on record by the one road, like what anybody else says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.server.cli_kit import accepting_own_files, at_work

pytestmark = pytest.mark.anyio
KEY = "AKIAIOSFODNN7EXAMPLE"
SAID = f"as agreed with {KEY} in the chat"


def rolled_out(config: dict[str, Any]) -> None:
    accepting_own_files(config)
    config["rollout"] = {"mode": "auto"}


def bytes_of(folder: Path) -> bytes:
    """Every file of the store."""
    return b"".join(file.read_bytes() for file in folder.glob("comptroller.db*") if file.is_file())


async def test_a_credential_in_a_reason_is_kept_in_no_table_and_no_record(tmp_path: Path) -> None:
    async with at_work(tmp_path, rolled_out) as desk:
        shop, (first, second, third) = desk.shop, desk.shop.paid()[:3]
        by = ("--credential-file", str(desk.credential))
        why = ("--reason", SAID)
        agreed, denied = await shop.pending(first), await shop.pending(second)
        await desk.run("approvals", "edit", agreed, "--set", "amount_usd=29", *why, *by, "--yes")
        await desk.run("approvals", "approve", agreed, *why, *by, "--yes")
        await desk.run("approvals", "deny", denied, *why)
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE))
        doubted = str((await shop.refund(third, 7)).meta["comptroller/call"])
        await desk.run("calls", "resolve", doubted, "--as", "done", *why, *by)
        await desk.run("rollout", "demote", *why)
        await desk.run("halt", "--tool", "issue_refund", *why)
        await desk.run("resume", "--tool", "issue_refund", *why, *by)
        kept = json.dumps(shop.packets())
        assert kept.count("as agreed with ") >= 7
        assert KEY not in kept
    assert KEY.encode() not in bytes_of(tmp_path)
