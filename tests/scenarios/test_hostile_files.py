"""Files from somebody else: scenarios that a build runs, and proofs that prove nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comptroller_server.evaluating.scenarios import read_scenarios
from comptroller_server.installation import TENANT
from tests.server.cli_kit import at_work

STEP = {"name": "a", "steps": [{"call": "x"}]}


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LD_PRELOAD", "PYTHONPATH", "NODE_OPTIONS", "GIT_SSH_COMMAND"]
)
def test_a_file_of_scenarios_does_not_say_which_programs_run(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.eval.yaml"
    path.write_text(json.dumps({"environment": "sandbox", "env": {name: "x"}, "scenarios": [STEP]}))
    scenarios, findings = read_scenarios(path, "a.eval.yaml")
    assert scenarios == []
    assert "decides which programs run" in str(findings[0])


@pytest.mark.parametrize("env", [{"A=B": "x"}, {"": "x"}, {"A": "x\0y"}, {"A B": "x"}])
def test_a_variable_that_can_be_none_is_a_finding(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "a.eval.yaml"
    path.write_text(json.dumps({"environment": "sandbox", "env": env, "scenarios": [STEP]}))
    scenarios, findings = read_scenarios(path, "a.eval.yaml")
    assert scenarios == []
    assert findings


@pytest.mark.anyio
@pytest.mark.parametrize("content", ["", "root:*:20228:0:99999:7:::\n", "null\n"])
async def test_a_named_file_that_proves_nothing_is_no_proof_that_all_is_well(
    tmp_path: Path, content: str
) -> None:
    """Who cut the log's end off would empty the file of checkpoints too, or hand over another one."""
    named = tmp_path / "named"
    named.write_text(content)
    async with at_work(tmp_path) as desk:
        await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[0])
        await desk.shop.service.checkpointer.write(TENANT)
        assert "the log is whole" in await desk.run("audit", "verify")
        for option in ("--checkpoint", "--receipts"):
            said = await desk.run("audit", "verify", option, str(named), code=1)
            assert "proves nothing" in said or content
            assert "the log is whole" not in said
