"""Whoever rotates a key on a machine where the new one cannot sign yet: what is handed over names the key that signed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comptroller_audit.checkpoint import CheckpointFile, log_origin, open_checkpoint, sign_checkpoint
from comptroller_audit.sealing import KeyRing
from comptroller_server.installation import TENANT
from tests.scenarios.kit import code_of, opened
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, at_work, run_in_thread

pytestmark = pytest.mark.anyio
REASON = ("--reason", "ana left")


async def rotated_unsigned(folder: Path) -> tuple[Desk, str, str]:
    """A desk whose newest checkpoint is the old key's, the new one having signed nothing; both verifier keys."""
    async with at_work(folder) as desk:
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
        assert await desk.shop.service.checkpointer.write(TENANT)
    old = (await desk.run("audit", "vkey")).strip()
    notes = (folder / "checkpoints.log").rename(folder / "notes.log")
    (folder / "checkpoints.log").symlink_to(notes)  # read, but never written to
    credential = ("--credential-file", str(desk.credential))
    ended = await run_in_thread(folder, "keys", "rotate", "checkpoint", *REASON, *credential)
    assert ended.exit_code == 0
    assert "name it" in ended.stderr
    return desk, old, (await desk.run("audit", "vkey")).strip()


async def test_an_export_names_the_key_that_signed_its_checkpoint(tmp_path: Path) -> None:
    desk, old, new = await rotated_unsigned(tmp_path)
    out = tmp_path / "out.jsonl"
    await desk.run("audit", "export", "--out", str(out))
    head = json.loads(out.read_text().splitlines()[0])
    assert head["vkey"] == old != new
    assert open_checkpoint(head["checkpoint"], head["vkey"]).size > 0
    await desk.run("audit", "check-export", str(out), "--vkey", old)
    refused = await run_in_thread(tmp_path, "audit", "check-export", str(out), "--vkey", new)
    assert refused.exit_code == 2
    assert "comptroller keys list" in refused.stderr


async def test_evidence_names_the_key_that_signed_and_the_new_one_once_it_has(tmp_path: Path) -> None:
    desk, old, new = await rotated_unsigned(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    await desk.run("evidence", "--period", "2026", "--out", str(first))
    assert json.loads((first / "manifest.json").read_text())["vkey"] == old
    (tmp_path / "checkpoints.log").unlink()
    (tmp_path / "notes.log").rename(tmp_path / "checkpoints.log")
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert await shop.service.checkpointer.write(TENANT)
    await desk.run("evidence", "--period", "2026", "--out", str(second))
    manifest = json.loads((second / "manifest.json").read_text())
    assert manifest["vkey"] == new
    assert open_checkpoint((second / "checkpoint.txt").read_text(), new)


async def test_what_a_stolen_key_signs_in_between_is_in_no_export(tmp_path: Path) -> None:
    """The old key vouches for what was: for a longer log nothing is exported as proved."""
    async with at_work(tmp_path) as desk:
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
    stolen = KeyRing.load(tmp_path / "keys.json")
    name = desk.shop.service.installation.log_name
    credential = ("--credential-file", str(desk.credential))
    await desk.run("keys", "rotate", "checkpoint", *REASON, *credential)
    forged = sign_checkpoint(log_origin(name, TENANT), 10_000, b"\x07" * 32, stolen.signer)
    CheckpointFile(tmp_path / "checkpoints.log").append(forged)
    ended = await run_in_thread(tmp_path, "audit", "export", "--out", str(tmp_path / "out.jsonl"))
    assert "somebody else has it" in ended.stderr
    head = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert head["checkpoint"] is None
