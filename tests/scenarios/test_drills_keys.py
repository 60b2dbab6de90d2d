"""Drills of docs/operations.md: keys that are old, lost or replaced, brought back by the page's own commands."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from comptroller_audit.errors import AuditError, KeyRingError, StoreUnsuitable
from comptroller_audit.keyfile import new_keys, read_key_file, replace_key_file
from comptroller_audit.vocabulary import RecordType
from tests.scenarios.kit import code_of, opened
from tests.scenarios.test_drills import runbook
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, at_work

pytestmark = pytest.mark.anyio


async def worked(folder: Path) -> Desk:
    """A desk that paid back one invoice, signed a checkpoint and ended."""
    async with at_work(folder) as desk:
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
        assert await desk.shop.service.checkpointer.write("local")
    return desk


def swap_checkpoint(folder: Path) -> None:
    path = folder / "keys.json"
    replace_key_file(path, replace(read_key_file(path), checkpoint=new_keys().checkpoint))


async def refused_to_start(folder: Path, error: type[AuditError]) -> None:
    with pytest.raises(error):
        async with opened(folder, accepting_own_files, clock=RealClock()):
            pass


def steps(title: str, *beginnings: str) -> list[list[str]]:
    """The commands of a runbook whose first words are these, with no other left over between them."""
    found = [words for words in runbook(title) if " ".join(words).startswith(beginnings)]
    assert [next(each for each in beginnings if " ".join(words).startswith(each)) for words in found] == list(
        beginnings
    )
    return found


async def done(desk: Desk, words: list[str]) -> str:
    known = {
        "./olga.credential": str(desk.credential),
        "./second": str(desk.folder / "second"),
        "./second-olga.credential": str(desk.folder / "second-olga.credential"),
    }
    return await desk.run(*[known.get(word, word) for word in words])


async def test_the_runbook_of_new_keys_leaves_a_store_that_verifies_and_old_copies_of_the_keys_useless(
    tmp_path: Path,
) -> None:
    desk = await worked(tmp_path)
    shutil.copy(tmp_path / "keys.json", tmp_path / "old.json")
    listed, checkpoint, seal = steps("Keys", "keys list", "keys rotate checkpoint", "keys rotate seal")
    for words in (listed, checkpoint):
        await done(desk, words)
    between = tmp_path / "between.json"
    shutil.copy(tmp_path / "keys.json", between)
    await done(desk, seal)
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) is None
    await desk.run("audit", "verify")
    newest = (tmp_path / "keys.json").read_bytes()
    for copy in (tmp_path / "old.json", between):
        shutil.copy(copy, tmp_path / "keys.json")
        await refused_to_start(tmp_path, KeyRingError)
    (tmp_path / "keys.json").write_bytes(newest)
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert len(shop.moved()) == 2


async def test_a_copy_of_the_keys_from_before_a_new_checkpoint_key_does_not_start(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    shutil.copy(tmp_path / "keys.json", tmp_path / "old.json")
    (checkpoint,) = steps("Keys", "keys rotate checkpoint")
    await done(desk, checkpoint)
    shutil.copy(tmp_path / "old.json", tmp_path / "keys.json")
    await refused_to_start(tmp_path, StoreUnsuitable)


async def test_a_lost_checkpoint_key_halts_everything_until_a_person_lifts_it(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    swap_checkpoint(tmp_path)
    await refused_to_start(tmp_path, StoreUnsuitable)
    adopt, resume = steps("A key is lost", "db adopt", "resume")
    await done(desk, adopt)
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) == "halted"
        (packet,) = shop.packets(RecordType.STORE_ADOPTED)
        assert packet["signed_entries"] == 0
    await done(desk, resume)
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) is None
    await desk.run("audit", "verify")


async def test_the_printed_half_of_a_lost_checkpoint_key_brings_its_checkpoints_back(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    vkey = (await desk.json("audit", "vkey"))["vkey"]
    name, _, _ = vkey.partition("+")
    swap_checkpoint(tmp_path)
    await refused_to_start(tmp_path, StoreUnsuitable)
    kept = json.loads((tmp_path / "keys.json").read_text())
    public = base64.b64encode(base64.b64decode(vkey.split("+", 2)[2])[-32:]).decode()
    kept["retired"] = [{"id": name.rpartition("/")[2], "public": public, "entries": 1_000}]
    (tmp_path / "keys.json").write_text(json.dumps(kept))
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) is None
    assert "the log is whole" in await desk.run("audit", "verify")


async def test_without_an_old_seal_key_the_server_goes_on_and_verify_names_what_does_not_open(
    tmp_path: Path,
) -> None:
    desk = await worked(tmp_path)
    (seal,) = steps("Keys", "keys rotate seal")
    await done(desk, seal)
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) is None
    kept = read_key_file(tmp_path / "keys.json")
    replace_key_file(tmp_path / "keys.json", kept.without(kept.seals[1][0]))
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[2], 7)) is None
        assert len(shop.moved()) == 3
    assert kept.seals[1][0] in await desk.run("audit", "verify", code=1)


async def test_a_store_without_its_keys_is_followed_by_a_new_one_that_begins_halted(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    (tmp_path / "keys.json").unlink()
    await refused_to_start(tmp_path, KeyRingError)
    enrol, halt, resume = steps(
        "A key is lost",
        "--data-dir ./second approver add",
        "--data-dir ./second halt",
        "--data-dir ./second resume",
    )
    await done(desk, enrol)
    await done(desk, halt)
    second = tmp_path / "second"
    async with opened(second, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) == "halted"
    await done(desk, resume)
    async with opened(second, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[1], 6)) is None
    assert not (tmp_path / "keys.json").exists()


def files_holding(folder: Path, forms: list[bytes]) -> tuple[set[str], list[str]]:
    """Every file but the key file, and those that hold one of the forms."""
    looked = [file for file in folder.rglob("*") if file.is_file() and file.name != "keys.json"]
    found = [file.name for file in looked if any(form in file.read_bytes() for form in forms)]
    return {file.name for file in looked}, found


async def test_no_key_is_in_a_backup_an_export_or_any_file_but_the_key_file(tmp_path: Path) -> None:
    desk = await worked(tmp_path)
    await desk.run("db", "backup", str(tmp_path / "monday.db"))
    await desk.run("audit", "export", "--out", str(tmp_path / "out.jsonl"))
    kept = read_key_file(tmp_path / "keys.json")
    secret = [raw for _, raw in (*kept.seals, kept.claim, kept.checkpoint)]
    forms = [form for raw in secret for form in (raw, base64.b64encode(raw), raw.hex().encode())]
    looked, found = files_holding(tmp_path, forms)
    assert {"monday.db", "out.jsonl", "comptroller.db", "checkpoints.log"} <= looked
    assert found == []
