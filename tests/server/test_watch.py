"""The snapshot of switches and bundle: how old it may be, and what is acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from comptroller_audit.owners import OWNERS
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.watch import FRESH_S
from tests.scenarios.kit import opened, until

pytestmark = pytest.mark.anyio


async def test_a_snapshot_is_read_again_once_it_is_old(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, opened(tmp_path, clock=shop.clock) as second:
        watch = shop.service.watch
        before = await watch.look("local")
        await second.halt(SwitchScope.TOOL, "issue_refund")
        shop.clock.pass_s(FRESH_S)
        after = await watch.fresh("local")
        assert after.switch_seq == before.switch_seq + 1
        assert list(watch.switches("local").active) == ["tool:issue_refund"]


async def test_no_switch_is_known_of_a_tenant_nobody_looked_at(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        assert shop.service.watch.switches("another").active == {}


async def test_every_living_process_acknowledges_a_switch(store_url: str, tmp_path: Path) -> None:
    async with (
        opened(tmp_path, url=store_url) as shop,
        opened(tmp_path, url=store_url, clock=shop.clock) as second,
    ):
        await shop.halt(SwitchScope.GLOBAL)
        owners = [shop.service.owner.id, second.service.owner.id]
        seq = shop.service.watch.switches("local").seq

        def obeyed() -> bool:
            rows = shop.rows(OWNERS, *owners)
            return len(rows) == 2 and all(row["switch_seq"] >= seq for row in rows.values())

        await until(obeyed)
