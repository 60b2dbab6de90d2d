"""Keys that are old, stolen or lost: new ones take over, the old ones vouch for what they did, and for nothing since."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from comptroller_audit.checkpoint import CheckpointFile, log_origin, sign_checkpoint
from comptroller_audit.errors import KeyRingError, StoreUnsuitable
from comptroller_audit.keyfile import new_keys, only_changer, read_key_file, replace_key_file
from comptroller_audit.sealing import KeyRing
from comptroller_audit.vocabulary import RecordType
from tests.scenarios.kit import Faults, code_of, opened
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, at_work, run_in_thread

pytestmark = pytest.mark.anyio
REASON = ("--reason", "ana left")


async def worked(folder: Path, name: str = "") -> Desk:
    """A desk that paid back one invoice, signed a checkpoint and ended."""
    async with at_work(folder) as desk:
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
        assert await desk.shop.service.checkpointer.write("local")
    return desk


def by(desk: Desk) -> tuple[str, str]:
    return ("--credential-file", str(desk.credential))


async def again(desk: Desk) -> list[dict[str, Any]]:
    """The desk serves again: it pays back one more; what the log holds of keys."""
    async with opened(desk.folder, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) is None
        return [dict(packet) for packet in shop.packets(RecordType.KEYS_CHANGED)]


async def test_a_new_key_signs_and_what_the_old_one_signed_goes_on_to_count(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    await desk.run("keys", "rotate", "checkpoint", *REASON, code=1)  # nobody's credential
    said = await desk.json("keys", "rotate", "checkpoint", *REASON, *by(desk))
    old = (await desk.json("keys", "list"))["keys"][-1]
    (packet,) = await again(desk)
    assert (packet["what"], packet["by"]) == ("rotated", "olga")
    assert packet["reason"] == "ana left"
    assert (packet["key"], packet["before"]) == (said["key"], old["id"])
    verified = await desk.run("audit", "verify")
    assert "the log is whole" in verified
    assert len(CheckpointFile(tmp_path / "checkpoints.log").read().notes) > 2
    assert said["vkey"] in await desk.run("audit", "vkey")
    keys = (tmp_path / "keys.json").read_text()
    assert "key" not in json.loads(keys)["retired"][0]
    await desk.run("audit", "export", "--out", str(tmp_path / "out.jsonl"))
    await desk.run("audit", "check-export", str(tmp_path / "out.jsonl"), "--vkey", said["vkey"])


async def test_a_stolen_key_signs_nothing_that_anybody_believes_once_it_is_retired(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    stolen = KeyRing.load(tmp_path / "keys.json")
    await desk.run("keys", "rotate", "checkpoint", *REASON, *by(desk))
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        name = shop.service.installation.log_name
        for invoice in shop.paid()[1:4]:
            assert code_of(await shop.refund(invoice, 5)) is None
    forged = sign_checkpoint(log_origin(name, "local"), 10_000, b"\x07" * 32, stolen.signer)
    CheckpointFile(tmp_path / "checkpoints.log").append(forged)
    told = await desk.run("audit", "verify", "--checkpoint", str(tmp_path / "checkpoints.log"), code=1)
    assert "retired" in told
    with pytest.raises(StoreUnsuitable, match="retired"):
        async with opened(tmp_path, accepting_own_files, clock=RealClock()):
            pass


async def test_a_key_replaced_by_hand_hides_no_old_copy(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    kept = read_key_file(tmp_path / "keys.json")
    other = new_keys()
    replace_key_file(tmp_path / "keys.json", kept.rotated("checkpoint", other.checkpoint, 0))
    without = json.loads((tmp_path / "keys.json").read_text())
    del without["retired"]
    (tmp_path / "keys.json").write_text(json.dumps(without))
    with pytest.raises(StoreUnsuitable, match="does not say how far this log was signed"):
        async with opened(tmp_path, accepting_own_files, clock=RealClock()):
            pass
    # Nobody has that key any more: a person answers for going on, and everything is halted.
    said = await desk.json("db", "adopt", "--reason", "the key is lost", *by(desk))
    assert said["halted"]
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 5)) == "halted"
        (packet,) = shop.packets(RecordType.STORE_ADOPTED)
        assert packet["signed_entries"] == 0


async def test_a_checkpoint_file_of_another_log_proves_nothing_of_this_one(tmp_path: Path) -> None:
    await worked(tmp_path)
    stranger = new_keys()
    signer = KeyRing(stranger.seals, stranger.claim, stranger.checkpoint).signer
    (tmp_path / "checkpoints.log").unlink()
    note = sign_checkpoint("comptroller.local/another/local", 7, b"\x07" * 32, signer)
    CheckpointFile(tmp_path / "checkpoints.log").append(note)
    with pytest.raises(StoreUnsuitable, match="of another log only"):
        async with opened(tmp_path, accepting_own_files, clock=RealClock()):
            pass


async def test_a_new_seal_key_seals_and_the_old_one_opens_until_nothing_needs_it(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    (first,) = [each for each in (await desk.json("keys", "list"))["keys"] if each["kind"] == "seal"]
    said = await desk.json("keys", "rotate", "seal", *REASON, *by(desk))
    await again(desk)
    listed = {each["id"]: each for each in (await desk.json("keys", "list"))["keys"]}
    assert listed[said["key"]]["payloads"] > 0
    assert listed[first["id"]]["payloads"] >= first["payloads"]
    await desk.run("audit", "verify")
    refused = await run_in_thread(tmp_path, "keys", "drop", first["id"], *REASON, *by(desk))
    assert refused.exit_code == 2
    assert "could not be read again, so nothing was changed" in refused.output
    unused = await desk.json("keys", "rotate", "seal", *REASON, *by(desk))
    latest = await desk.json("keys", "rotate", "seal", *REASON, *by(desk))
    await desk.run("keys", "drop", latest["key"], *REASON, *by(desk), code=2)  # it seals
    assert unused["key"] in {each["id"] for each in (await desk.json("keys", "list"))["keys"]}
    assert len(await again(desk)) == 3


async def test_keys_change_under_no_running_server_and_one_at_a_time(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        before = (tmp_path / "keys.json").read_bytes()
        for words in (("rotate", "seal"), ("rotate", "checkpoint"), ("drop", "seal-1")):
            refused = await run_in_thread(tmp_path, "keys", *words, *REASON, *by(desk))
            assert refused.exit_code == 2
            assert "a server runs on this store" in refused.output
    with only_changer(tmp_path / "keys.json"):
        busy = await run_in_thread(tmp_path, "keys", "rotate", "seal", *REASON, *by(desk))
        with pytest.raises(KeyRingError, match="a command is changing"), only_changer(tmp_path / "keys.json"):
            pass
    assert busy.exit_code != 0
    assert (tmp_path / "keys.json").read_bytes() == before


def without_checkpoints(config: dict[str, Any]) -> None:
    accepting_own_files(config)
    config["store"]["checkpoints"] = []


async def test_another_claim_key_serves_nothing_and_adopts_nothing_also_without_checkpoints(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path, without_checkpoints) as desk:
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
    right = (tmp_path / "keys.json").read_bytes()
    kept = read_key_file(tmp_path / "keys.json")
    replace_key_file(tmp_path / "keys.json", replace(kept, claim=new_keys().claim))
    with pytest.raises(KeyRingError, match="could be done twice"):
        async with opened(tmp_path, without_checkpoints, clock=RealClock()):
            pass
    refused = await run_in_thread(tmp_path, "db", "adopt", *REASON, *by(desk))
    assert refused.exit_code == 2
    assert "no other key will do" in refused.output
    (tmp_path / "keys.json").write_bytes(right)
    async with opened(tmp_path, without_checkpoints, clock=RealClock()) as shop:
        assert len(shop.moved()) == 1
        assert code_of(await shop.refund(shop.paid()[1], 5)) is None


async def test_a_server_that_starts_while_keys_change_signs_nothing_with_the_old_ones(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    with (
        only_changer(tmp_path / "keys.json"),
        pytest.raises(KeyRingError, match="a command is changing"),
    ):
        async with opened(tmp_path, accepting_own_files, clock=RealClock()):
            pass
    kept, faults = read_key_file(tmp_path / "keys.json"), Faults()
    faults.at["commit.before"] = lambda: replace_key_file(
        tmp_path / "keys.json", kept.rotated("checkpoint", new_keys().checkpoint, 10_000)
    )
    signed = (tmp_path / "checkpoints.log").read_bytes()
    with pytest.raises(KeyRingError, match="was changed while this process started"):
        async with opened(tmp_path, accepting_own_files, clock=RealClock(), faults=faults):
            pass
    assert (tmp_path / "checkpoints.log").read_bytes() == signed
    assert await again(desk) == []


async def test_a_rotation_that_ends_between_the_record_and_the_file_is_done_again(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    before = (tmp_path / "keys.json").read_bytes()
    in_the_way = tmp_path / f"keys.json.{os.getpid()}.new"
    in_the_way.write_text("")
    failed = await run_in_thread(tmp_path, "keys", "rotate", "checkpoint", *REASON, *by(desk))
    assert failed.exit_code == 2
    assert (tmp_path / "keys.json").read_bytes() == before
    in_the_way.unlink()
    await again(desk)
    said = await desk.json("keys", "rotate", "checkpoint", *REASON, *by(desk))
    first, second = await again(desk)
    assert first["key"] not in (tmp_path / "keys.json").read_text()
    assert second["key"] == said["key"]
    assert first["before"] == second["before"]
    await desk.run("audit", "verify")


async def test_a_rotation_stands_and_says_so_where_its_checkpoint_cannot_be_written(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    notes = (tmp_path / "checkpoints.log").rename(tmp_path / "notes.log")
    (tmp_path / "checkpoints.log").symlink_to(notes)  # read, but never written to
    ended = await run_in_thread(tmp_path, "keys", "rotate", "checkpoint", *REASON, *by(desk))
    assert ended.exit_code == 0
    assert "could not be written" in ended.stderr
    notes.rename(tmp_path / "checkpoints.log")
    await again(desk)
    assert "the log is whole" in await desk.run("audit", "verify")


async def test_no_key_is_shown_or_recorded(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    shown = await desk.run("keys", "list")
    shown += await desk.run("keys", "rotate", "checkpoint", *REASON, *by(desk))
    shown += json.dumps(await again(desk))
    for member in ("seal", "claim", "checkpoint"):
        kept: Any = json.loads((tmp_path / "keys.json").read_text())[member]
        each = cast("list[dict[str, str]]", kept if isinstance(kept, list) else [kept])
        assert not any(key["key"] in shown for key in each)


def test_a_retired_key_that_is_malformed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyRing.create(path)
    good: dict[str, Any] = json.loads(path.read_text())
    old: dict[str, Any] = {"id": "checkpoint-old", "public": good["claim"]["key"], "entries": 4}
    path.write_text(json.dumps({**good, "retired": [old]}))
    assert KeyRing.load(path).retired[0].entries == 4
    malformed: list[Any] = [
        {},
        [{**old, "entries": -1}],
        [{**old, "entries": True}],
        [{**old, "public": "AAAA"}],
        [{**old, "public": "?"}],
        [{**old, "id": good["checkpoint"]["id"]}],
        [{**old, "more": 1}],
        [old, old],
        ["x"],
    ]
    for bad in malformed:
        path.write_text(json.dumps({**good, "retired": bad}))
        with pytest.raises(KeyRingError, match="retired"):
            KeyRing.load(path)
