"""The worst day: the disk died, last night's backup is brought back, and nothing that was done since is done again unseen."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from comptroller_audit.errors import StoreUnsuitable
from comptroller_audit.vocabulary import RecordType
from tests.scenarios.kit import code_of, opened
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, at_work, run_in_thread

pytestmark = pytest.mark.anyio


async def restored(folder: Path) -> tuple[Desk, str, str]:
    """A desk that went on after its backup and was restored from it: the desk, a call that waited, and what was paid since."""
    backup = folder / "night.db"
    async with at_work(folder) as desk:
        invoice = desk.shop.paid()[0]
        assert code_of(await desk.shop.refund(invoice, 5)) is None
        waiting = await desk.shop.pending(desk.shop.paid()[1])
        await desk.run("approvals", "approve", waiting, "--yes", "--credential-file", str(desk.credential))
        await desk.run("db", "backup", str(backup))
        assert code_of(await desk.shop.refund(invoice, 6)) is None
        assert await desk.shop.service.checkpointer.write("local")
    await desk.run("db", "restore", str(backup))
    return desk, waiting, invoice


async def test_an_old_copy_is_served_once_somebody_answers_for_it_and_everything_is_halted(
    tmp_path: Path,
) -> None:
    desk, waiting, invoice = await restored(tmp_path)
    with pytest.raises(StoreUnsuitable, match="comptroller db adopt"):
        async with opened(tmp_path, accepting_own_files, clock=RealClock()):
            pass
    reason = ("--reason", "The disk died.")
    await desk.run("db", "adopt", *reason, code=1)  # nobody's credential
    said = await desk.json("db", "adopt", *reason, "--credential-file", str(desk.credential))
    (aside,) = said["set_aside"]
    assert said["voided"] == 1
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:
        assert code_of(await shop.refund(invoice, 6)) == "halted"
        assert code_of(await shop.resume(waiting)) == "approval_void"
        assert len(shop.moved()) == 2
        lifted = await run_in_thread(
            tmp_path, "resume", "--reason", "compared", "--credential-file", str(desk.credential)
        )
        assert lifted.exit_code == 0, lifted.output
        await shop.service.watch.look("local")
        assert code_of(await shop.refund(invoice, 7)) is None
        (packet,) = shop.packets(RecordType.STORE_ADOPTED)
        assert (packet["by"], packet["reason"]) == ("olga", "The disk died.")
        assert packet["signed_entries"] > packet["entries"] > 0
    await desk.run("audit", "verify")
    told = await desk.run("audit", "verify", "--checkpoint", aside, code=1)
    assert "does not continue what was signed" in told


async def test_a_store_that_is_not_old_is_not_adopted(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        await desk.run("db", "adopt", "--reason", "x", "--credential-file", str(desk.credential), code=2)
    result = await run_in_thread(
        tmp_path, "db", "adopt", "--reason", "x", "--credential-file", str(desk.credential)
    )
    assert "is not older than its newest checkpoint" in result.output
    assert result.exit_code == 2


async def test_nothing_is_restored_under_a_running_server(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        await desk.run("db", "backup", str(tmp_path / "copy.db"))
        refused = await run_in_thread(tmp_path, "db", "restore", str(tmp_path / "copy.db"))
        assert refused.exit_code == 2
        assert "a server runs on this store" in refused.output
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None


async def test_a_backup_never_replaces_a_file_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with at_work(tmp_path) as desk:
        said = await desk.json("db", "backup", str(copy))
        await desk.run("db", "backup", str(copy), code=2)
    assert said["verified"]
    assert said["entries"] > 0
    assert copy.stat().st_mode & 0o077 == 0
    assert [name for name in os.listdir(tmp_path) if "copy" in name] == ["copy.db"]


async def test_a_store_that_was_cut_is_not_backed_up_as_whole(tmp_path: Path) -> None:
    old, copy = tmp_path / "old.db", tmp_path / "copy.db"
    async with at_work(tmp_path) as desk:
        await desk.run("db", "backup", str(old))
        assert code_of(await desk.shop.refund(desk.shop.paid()[0], 5)) is None
        assert await desk.shop.service.checkpointer.write("local")
        await desk.run("db", "backup", str(copy))
    copy.unlink()
    for tail in ("-wal", "-shm"):
        (tmp_path / f"comptroller.db{tail}").unlink(missing_ok=True)
    (tmp_path / "comptroller.db").write_bytes(old.read_bytes())  # as if somebody had put an old copy there
    refused = await run_in_thread(tmp_path, "db", "backup", str(copy))
    assert refused.exit_code == 2
    assert "does not verify, and was not kept" in refused.output
    assert not copy.exists()


async def test_a_damaged_backup_replaces_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with at_work(tmp_path) as desk:
        await desk.run("db", "backup", str(copy))
    before = (tmp_path / "comptroller.db").read_bytes()
    with closing(sqlite3.connect(copy)) as damaged, damaged:
        damaged.execute("UPDATE log_entry SET envelope = replace(envelope, '\"v\":1', '\"v\":2')")
    refused = await run_in_thread(tmp_path, "db", "restore", str(copy))
    assert refused.exit_code == 2
    assert "does not verify, so nothing was changed" in refused.output
    assert (tmp_path / "comptroller.db").read_bytes() == before


async def test_a_database_too_damaged_to_ask_is_replaced_on_a_persons_word_and_kept(tmp_path: Path) -> None:
    copy, database = tmp_path / "copy.db", tmp_path / "comptroller.db"
    async with at_work(tmp_path) as desk:
        assert await desk.shop.service.checkpointer.write("local")
    await desk.run("db", "backup", str(copy))
    database.write_bytes(b"no database at all" * 400)
    refused = await run_in_thread(tmp_path, "db", "restore", str(copy))
    assert "--server-stopped" in refused.output
    said = await desk.json("db", "restore", str(copy), "--server-stopped")
    assert os.stat(said["kept"]).st_size == len(b"no database at all" * 400)
    async with opened(tmp_path, accepting_own_files, clock=RealClock()) as shop:  # nothing was signed since
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None


async def test_what_was_set_aside_is_never_written_over(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with at_work(tmp_path) as desk:
        await desk.run("db", "backup", str(copy))
    kept = [(await desk.json("db", "restore", str(copy)))["kept"] for _ in range(4)]
    assert len({*kept}) == 4
    assert all(os.path.lexists(each) for each in kept)  # noqa: ASYNC240 -- no server waits here
