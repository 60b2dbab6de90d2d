"""Evidence for auditors: complete for its period, provable, with nothing in it that is withheld elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.query import Logged
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_server.commands.evidence import evidence
from comptroller_server.errors import CommandError
from comptroller_server.exporting.controls import CONTROLS, Topic, topics_of, unreadable
from comptroller_server.exporting.periods import period_from
from comptroller_server.exporting.records import Exported
from comptroller_server.installation import TENANT
from tests.scenarios.kit import code_of
from tests.server.cli_kit import Desk, accepting_own_files, at_work

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "controls.md"


@pytest.fixture(scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Desk]:
    """A desk that paid, refused, and was stopped and let go on."""

    def changes(config: dict[str, Any]) -> None:
        accepting_own_files(config)
        config["safety"] = {"pii_redaction": ["email"]}

    async with at_work(tmp_path_factory.mktemp("desk"), changes) as desk:
        shop = desk.shop
        invoice = shop.paid()[0]
        await shop.call("get_ticket", ticket_id=shop.sql("SELECT id FROM tickets ORDER BY id")[0][0])
        await shop.call("lookup_invoice", invoice_id=invoice)
        assert code_of(await shop.refund(invoice, 12)) is None
        assert code_of(await shop.refund(invoice, 90_000)) == "denied"
        await desk.run("halt", "--tool", "issue_refund", "--reason", "an audit")
        await desk.run(
            "resume",
            "--tool",
            "issue_refund",
            "--reason",
            "it is over",
            "--credential-file",
            str(desk.credential),
        )
        assert await shop.service.checkpointer.write(TENANT)
        yield desk


@pytest.fixture(scope="module")
async def folder(desk: Desk) -> Path:
    made = desk.folder / "now"
    await desk.run("evidence", "--period", "1970-01-02..9998-12-30", "--out", str(made))
    return made


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def modes(folder: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())]


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


async def test_the_manifest_tells_every_file_by_its_digest_and_every_control_has_its_files(
    folder: Path,
) -> None:
    manifest = manifest_of(folder)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents(folder).items()}
    del files["manifest.json"]
    assert manifest["sha256"] == files
    assert all(set(control["files"]) <= files.keys() and control["files"] for control in manifest["controls"])
    assert manifest["verified"]
    assert not manifest["over"]
    assert not any(mode & 0o077 for mode in modes(folder))


async def test_each_topic_holds_the_records_of_the_whole_that_tell_of_it(folder: Path) -> None:
    _, *record = lines_of(folder / "record.jsonl")
    types = {topic: {line["type"] for line in lines_of(folder / f"{topic.value}.jsonl")} for topic in Topic}
    assert types[Topic.STOPS] == {"switch_set", "switch_cleared"}
    assert types[Topic.CREDENTIALS] == {"approver_added"}
    assert types[Topic.POLICY_CHANGES] == {"bundle_activated"}
    assert types[Topic.CHANGES] == {"action", "audit"}
    assert types[Topic.DENIED] == {"refused"}
    assert all(line in record for topic in Topic for line in lines_of(folder / f"{topic.value}.jsonl"))
    counted = {topic.value: len(lines_of(folder / f"{topic.value}.jsonl")) for topic in Topic}
    assert manifest_of(folder)["records"] == counted


async def test_the_record_of_the_period_is_proved_far_from_the_store(desk: Desk, folder: Path) -> None:
    vkey = (await desk.run("audit", "vkey")).strip()
    report = await desk.json("audit", "check-export", str(folder / "record.jsonl"), "--vkey", vkey)
    assert report["ok"]
    assert report["proved"] == len(lines_of(folder / "record.jsonl")) - 1


async def test_what_people_are_not_shown_is_not_in_the_evidence(desk: Desk, folder: Path) -> None:
    addresses = [row[0] for row in desk.shop.sql("SELECT email FROM customers")]
    written = b"".join(contents(folder).values()).decode()
    assert addresses
    assert "get_ticket" in written
    assert not [address for address in addresses if address in written]


async def test_entries_of_another_period_are_left_out(desk: Desk) -> None:
    out = desk.folder / "earlier"
    said = await desk.json("evidence", "--period", "2001-Q1", "--out", str(out))
    assert said["over"]
    assert said["entries"] == {"first": 0, "end": 0}
    assert not any(said["records"].values())


async def test_a_folder_that_is_there_is_never_written_to(desk: Desk) -> None:
    out = desk.folder / "taken"
    out.mkdir()
    await desk.run("evidence", "--period", "2026", "--out", str(out), code=2)
    assert not list(out.iterdir())


async def test_a_log_that_does_not_verify_is_written_and_said(
    tmp_path: Path, desk: Desk, folder: Path
) -> None:
    checkpoints = desk.shop.service.installation.config.store.checkpoint_files[0]
    kept = checkpoints.read_bytes()
    signed = lines_of(folder / "record.jsonl")[0]["checkpoint"]
    root = signed.splitlines()[2]
    try:
        checkpoints.write_bytes(kept.replace(root.encode(), root[::-1].encode()))
        await desk.run("evidence", "--period", "2026", "--out", str(tmp_path / "bad"), code=1)
    finally:
        checkpoints.write_bytes(kept)
    assert not manifest_of(tmp_path / "bad")["verified"]


def audited(packet: JsonObject | None) -> Exported:
    return Exported(Logged(0, RecordType.AUDIT, 0, {}, "", packet), None)


def anything(_each: Exported) -> bool:
    return True


@pytest.mark.parametrize("result", ["differs", "unknown"])
async def test_a_verification_that_could_not_say_is_evidence_too(result: str) -> None:
    assert Topic.VERIFICATION in topics_of(audited({"verification": {"result": result}}))
    assert Topic.VERIFICATION not in topics_of(audited({"verification": {"result": "matched"}}))


async def test_a_call_whose_payload_was_erased_is_counted(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unreadable(audited(None))
    assert not unreadable(audited({"verification": {"result": "matched"}}))
    monkeypatch.setattr("comptroller_server.commands.evidence.unreadable", anything)
    said = await desk.json("evidence", "--period", "1970-01-02..9998-12-30", "--out", str(tmp_path / "all"))
    assert said["payloads_erased"] == said["entries"]["end"] > 0


def day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "first", "end"),
    [
        ("2026-Q3", "2026-07-01", "2026-10-01"),
        ("2026-Q4", "2026-10-01", "2027-01-01"),
        ("2026", "2026-01-01", "2027-01-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("2024-02-01..2024-02-29", "2024-02-01", "2024-03-01"),
    ],
)
async def test_a_period_ends_after_its_last_day(text: str, first: str, end: str) -> None:
    period = period_from(text)
    assert (period.first_ms, period.end_ms) == (day(first), day(end))


@pytest.mark.parametrize(
    "text", ["", "2026-Q5", "2026-13", "2026-02-02", "2026-02-02..2026-02-01", "Q3", "9999", ".."]
)
async def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        period_from(text)


async def test_the_page_maps_each_control_as_the_command_does() -> None:
    rows = re.findall(
        r"^\| ((?:CC|A\.)[0-9.]+) \| ([^|]+) \|[^\n]*\| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE
    )
    told = [(control, title, set(evidence.split(", "))) for control, title, evidence in rows]
    assert told == [
        (each.id, each.title, {topic.value for topic in each.topics} | ({"log"} if each.log else set()))
        for each in CONTROLS
    ]


async def test_the_page_tells_of_every_topic() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [topic.value for topic in Topic]
    assert "Example: comptroller evidence" in (evidence.help or "")
