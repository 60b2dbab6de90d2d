"""`comptroller bundle`: what has been in force, putting a configuration in force beside a running server, and going back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.kit import code_of, placed
from tests.server.cli_kit import Desk, accepting_own_files, at_work, run, run_in_thread

pytestmark = pytest.mark.anyio

CASES = """cases:
  - name: what is small may be paid back
    tool: issue_refund
    principal: {roles: [support]}
    arguments: {invoice_id: inv_1, amount_usd: 1, reason_code: goodwill}
    expect: allow
"""


def most(usd: int) -> Any:
    def change(config: dict[str, Any]) -> None:
        accepting_own_files(config)
        config["limits"] = {**config.get("limits", {}), "identical_calls_max": 1_000}
        for tool in config["tools"]:
            if tool["name"] == "issue_refund":
                tool["constraints"]["max_amount_usd"] = usd

    return change


async def seen(desk: Desk) -> None:
    await desk.shop.service.watch.look("local")


async def test_a_folder_is_put_in_force_beside_a_running_server_and_a_rollback_goes_back(
    tmp_path: Path,
) -> None:
    candidate = tmp_path / "candidate"
    placed(candidate, most(3))
    async with at_work(tmp_path, most(50)) as desk:
        (invoice, other), key = desk.shop.paid()[:2], ("--credential-file", str(desk.credential))
        assert code_of(await desk.shop.refund(invoice, 5)) is None
        (first,) = (await desk.json("bundle", "list"))["bundles"]
        assert (first["active"], first["how"], first["calls"], first["kept"]) == (True, "served", 1, True)

        dry = await desk.json("bundle", "activate", str(candidate), "--dry-run")
        assert dry["ok"] and not dry["changed"] and dry["before"] == first["bundle"]
        told = await desk.run("bundle", "activate", str(candidate), "--reason", "a bad week", *key)
        assert "`issue_refund`: constraints.max_amount_usd is 3 instead of 50" in told
        await seen(desk)
        assert code_of(await desk.shop.refund(invoice, 5)) == "denied"
        now, _ = (await desk.json("bundle", "list"))["bundles"]
        assert (now["bundle"], now["by"], now["how"], now["calls"]) == (dry["bundle"], "olga", "activated", 1)
        listed = await desk.run("bundle", "list")
        assert listed.splitlines()[1].startswith(now["bundle"][:16]) and "active" in listed.splitlines()[1]
        assert "is in force already" in await desk.run("bundle", "activate", now["bundle"][:12], *key)

        (change,) = (await desk.json("policy", "diff", "active", code=1))["changes"]
        assert change["text"] == "`issue_refund`: constraints.max_amount_usd is 50 instead of 3"

        back = await desk.json("bundle", "rollback", *key)
        assert back["changed"] and (back["bundle"], back["before"]) == (first["bundle"], now["bundle"])
        await seen(desk)
        assert code_of(await desk.shop.refund(other, 5)) is None
        await desk.run("policy", "diff", "active")
        end = await run_in_thread(tmp_path, "bundle", "rollback", *key)
        assert end.exit_code == 2 and "nothing to go back to" in end.stderr
        assert (await desk.json("bundle", "activate", now["bundle"], *key))["changed"]
        assert len(desk.shop.moved()) == 2


async def test_a_bundle_with_other_sources_than_the_configuration_is_compared_and_put_in_force(
    tmp_path: Path,
) -> None:
    def more(config: dict[str, Any]) -> None:
        most(50)(config)
        config["sources"]["other"] = {"python": "./other.py"}
        config["tools"].append({"name": "look", "source": "other", "allow_actions": ["read"]})

    for folder in (tmp_path, tmp_path / "candidate"):
        folder.mkdir(exist_ok=True)
        (folder / "other.py").write_text('def look(key: str) -> str:\n    """Look."""\n    return key\n')
    placed(tmp_path / "candidate", more)
    async with at_work(tmp_path, most(50)) as desk:
        key = ("--credential-file", str(desk.credential))
        done = await desk.json("bundle", "activate", str(tmp_path / "candidate"), "--restart", *key)
        assert done["changed"] and done["restart"] == ["sources"]
        back = await desk.json("bundle", "rollback", "--restart", *key)
        again = await desk.json("bundle", "activate", done["bundle"], "--restart", *key)
        assert (back["bundle"], again["bundle"]) == (done["before"], done["bundle"])
        await seen(desk)
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) == "bundle_changed"
        assert "`sources` changed" in desk.shop.service.pipeline.why


async def test_nothing_is_put_in_force_without_who_may_or_past_what_fails(tmp_path: Path) -> None:
    candidate, broken = tmp_path / "candidate", tmp_path / "broken"

    def larger_queue(config: dict[str, Any]) -> None:
        most(3)(config)
        config["limits"]["queue_max"] = 7

    placed(candidate, most(3))
    (candidate / "policies" / "refunds.test.yaml").write_text(CASES)
    placed(tmp_path / "larger", larger_queue)
    placed(broken, most(3), cedar='@id("x") permit (principal, action, resource) when { context.nothing };')
    async with at_work(tmp_path, most(50)) as desk:
        key = ("--credential-file", str(desk.credential))
        nobody = await desk.json("bundle", "activate", str(candidate), code=1)
        assert "credential" in nobody["problem"] and not nobody["changed"]
        cases = ("--test", "policies/*.test.yaml")
        failed = await desk.json("bundle", "activate", str(candidate), *cases, *key, code=1)
        assert len(failed["failed"]) == 1 and "did not pass" in failed["problem"]
        none = await run_in_thread(
            tmp_path, "bundle", "activate", str(candidate), "--test", "no/*.yaml", *key
        )
        assert none.exit_code == 2 and "no cases match" in none.stderr
        bad = await run_in_thread(tmp_path, "bundle", "activate", str(broken), *key)
        assert bad.exit_code == 2 and "more.cedar:1" in bad.stderr
        restart = await desk.json("bundle", "activate", str(tmp_path / "larger"), *key, code=1)
        assert restart["restart"] == ["limits"] and "--restart" in restart["problem"]
        for wrong in ("ffffffffffff", "nowhere"):
            assert (await run_in_thread(tmp_path, "bundle", "activate", wrong, *key)).exit_code == 2
        assert len((await desk.json("bundle", "list"))["bundles"]) == 1
        assert (await desk.json("bundle", "activate", str(tmp_path / "larger"), "--restart", *key))["changed"]


def test_a_store_that_is_not_there_has_no_bundles(tmp_path: Path) -> None:
    placed(tmp_path)
    result = run(tmp_path, "bundle", "list")
    assert result.exit_code == 2 and "there is no store" in result.stderr
