"""The record for other programs: complete, proved far from the store, and with nothing in it that is withheld elsewhere."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.errors import EvidenceError
from comptroller_audit.exported import check_export
from comptroller_audit.files import replace_file
from comptroller_audit.log import leaf_hash
from comptroller_audit.vocabulary import RecordType
from comptroller_server.exporting.rows import COLUMNS, written
from comptroller_server.installation import TENANT
from tests.scenarios.kit import code_of
from tests.server.cli_kit import Desk, accepting_own_files, at_work

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Desk]:
    """A desk that read, paid, and refused, and whose checkpoint covers all of it but one read."""

    def changes(config: dict[str, Any]) -> None:
        accepting_own_files(config)
        config["safety"] = {"pii_redaction": ["email"]}

    async with at_work(tmp_path_factory.mktemp("desk"), changes) as desk:
        shop = desk.shop
        invoice = shop.paid()[0]
        await shop.call("lookup_invoice", invoice_id=invoice)
        await shop.call("get_ticket", ticket_id=shop.sql("SELECT id FROM tickets ORDER BY id")[0][0])
        assert code_of(await shop.refund(invoice, 12)) is None
        assert code_of(await shop.refund(invoice, 90_000)) == "denied"
        assert await shop.service.checkpointer.write(TENANT)
        await shop.call("lookup_invoice", invoice_id=invoice)
        yield desk


@pytest.fixture(scope="module")
async def lines(desk: Desk) -> list[str]:
    return (await desk.run("audit", "export")).splitlines()


@pytest.fixture(scope="module")
async def vkey(desk: Desk) -> str:
    return (await desk.run("audit", "vkey")).strip()


async def test_a_pipe_or_a_device_is_written_to_and_never_replaced(desk: Desk, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # for writing too, so that nobody waits for the other
    try:
        await desk.run("audit", "export", "--format", "csv", "--out", str(pipe))
        assert os.read(reading, 5) == b"index"
        replace_file(pipe, b"a page", 0o644)
        assert os.read(reading, 1 << 20).endswith(b"a page")
    finally:
        os.close(reading)
    assert pipe.is_fifo()


async def test_every_entry_is_exported_and_proved_without_the_store(
    desk: Desk, vkey: str, tmp_path: Path
) -> None:
    file = tmp_path / "record.jsonl"
    said = await desk.json("audit", "export", "--out", str(file))
    report = await desk.json("audit", "check-export", str(file), "--vkey", vkey)
    head = json.loads(file.read_text().splitlines()[0])
    assert said["entries"] == head["end"] == report["proved"] + report["beyond"]
    assert report["ok"]
    assert report["beyond"] == 1
    assert report["proved"] > 3
    assert file.stat().st_mode & 0o077 == 0


def _other_envelope(line: dict[str, Any]) -> None:
    line["envelope"]["t"] += 1
    line["at_ms"] += 1


def _rewritten(line: dict[str, Any]) -> None:
    _other_envelope(line)
    line["leaf"] = leaf_hash(canonical_bytes(line["envelope"])).hex()


def _other_type(line: dict[str, Any]) -> None:
    line["type"] = "audit"


def _no_proof(line: dict[str, Any]) -> None:
    line["proof"] = None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_envelope, "the leaf is another"),
        (_rewritten, "not proved to stand in the checkpoint"),
        (_other_type, "not what its envelope says"),
        (_no_proof, "not proved to stand in the checkpoint"),
    ],
)
async def test_a_changed_line_is_named(
    lines: list[str], vkey: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    entry = json.loads(lines[2])
    change(entry)
    report = check_export([*lines[:2], json.dumps(entry), *lines[3:]], vkey)
    assert not report.ok
    assert report.bad == [found for found in report.bad if found.startswith("line 3: ") and said in found]


@pytest.mark.parametrize("said_first", [True, False])
@pytest.mark.parametrize("name", ["index", "leaf", "envelope", "t"])
async def test_a_line_that_says_a_thing_twice_is_no_entry(
    lines: list[str], vkey: str, name: str, said_first: bool
) -> None:
    forged = json.dumps({name: 7})[1:-1]
    if name == "t":
        text = lines[2].replace('"envelope": {', f'"envelope": {{{forged}, ')
    else:
        text = f"{{{forged}, {lines[2][1:]}" if said_first else f"{lines[2][:-1]}, {forged}}}"
    assert check_export([*lines[:2], text, *lines[3:]], vkey).bad == ["line 3: is no entry"]


async def test_a_number_that_readers_take_for_two_is_no_entry(lines: list[str], vkey: str) -> None:
    t = json.loads(lines[2])["envelope"]["t"]
    for token in (f"{t}.0000000000000000000001", f"{t}.0" + "0" * 400, "NaN"):
        text = lines[2].replace(f'"t": {t}', f'"t": {token}')
        assert check_export([*lines[:2], text, *lines[3:]], vkey).bad == ["line 3: is no entry"]
    true = [lines[0], lines[1], lines[2].replace('"index": 1', '"index": true'), *lines[3:]]
    assert "it says True" in check_export(true, vkey).bad[0]


async def test_a_head_with_half_a_character_or_boundless_numbers_is_refused_in_words(
    lines: list[str], vkey: str
) -> None:
    head = json.loads(lines[0])
    half = head | {"checkpoint": "\ud800" + head["checkpoint"]}
    with pytest.raises(EvidenceError, match="half a character"):
        check_export([json.dumps(half), *lines[1:]], vkey)
    boundless = lines[0].replace('"first": 0', '"first": ' + "9" * 4_300)
    with pytest.raises(EvidenceError, match="whose entries follow"):
        check_export([boundless, *lines[1:]], vkey)
    with pytest.raises(EvidenceError, match="verifier key is malformed"):
        check_export(lines, "\ud800" + vkey)


async def test_a_line_left_out_is_noticed(lines: list[str], vkey: str) -> None:
    assert (
        check_export([*lines[:2], *lines[3:]], vkey).bad[0]
        == "entries 1 to 1 are missing, and no proved entry says that they were pruned"
    )
    assert not check_export(lines[:-1], vkey).ok


async def test_a_line_that_stands_twice_is_noticed_where_it_stands(lines: list[str], vkey: str) -> None:
    doubled = check_export([*lines[:3], *lines[2:]], vkey)
    assert doubled.bad[0] == "line 4: entry 2 should stand here, and it says 1"


async def test_an_export_proves_nothing_to_who_has_another_key(lines: list[str], vkey: str) -> None:
    name, number, key = vkey.split("+", 2)
    with pytest.raises(EvidenceError):
        check_export(lines, f"{name}+{int(number, 16) ^ 1:08x}+{key}")
    head = json.loads(lines[0]) | {"checkpoint": None}
    with pytest.raises(EvidenceError, match="has no checkpoint"):
        check_export([json.dumps(head), *lines[1:]], vkey)


@given(st.lists(st.text(max_size=40), max_size=4))
def test_what_is_no_export_is_an_error_in_words_or_a_report(found: list[str]) -> None:
    with pytest.raises(EvidenceError):
        check_export(found, "comptroller+00000000+AAAA")


async def test_rows_tell_what_was_called_and_how_it_ended(desk: Desk) -> None:
    rows = list(csv.DictReader(io.StringIO(await desk.run("audit", "export", "--format", "csv"))))
    refused = [row for row in rows if row["type"] == "refused"]
    ended = [row for row in rows if row["type"] == "audit"]
    assert tuple(rows[0]) == COLUMNS
    assert [(row["tool"], row["code"]) for row in refused] == [("issue_refund", "denied")]
    assert [(row["tool"], row["effect"], row["state"]) for row in ended] == [
        ("issue_refund", "create", "done")
    ]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_no_cell_is_a_formula(text: str) -> None:
    (cells,) = csv.reader([written([text, "end"])])
    assert cells[1] == "end"
    assert not cells[0].startswith(("=", "+", "-", "@"))
    assert cells[0].removeprefix("'") == text.removeprefix("'")


async def test_events_have_what_ocsf_demands_of_an_api_activity(desk: Desk) -> None:
    events = [
        json.loads(line) for line in (await desk.run("audit", "export", "--format", "ocsf")).splitlines()
    ]
    demanded = {"activity_id", "actor", "api", "category_uid", "class_uid", "metadata", "severity_id"}
    demanded |= {"src_endpoint", "time", "type_uid"}
    assert all(demanded <= event.keys() for event in events)
    assert all(event["type_uid"] == event["class_uid"] * 100 + event["activity_id"] for event in events)
    paid = [e for e in events if e["unmapped"]["record"] == "audit"]
    refused = [e for e in events if e["unmapped"]["record"] == "refused"]
    assert [(e["activity_id"], e["status_id"]) for e in paid] == [(1, 1)]
    assert [(e["status_id"], e["status_code"]) for e in refused] == [(2, "denied")]


async def test_an_export_to_where_nothing_can_be_written_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    await desk.run("audit", "export", "--out", str(tmp_path / "no" / "where.csv"), code=2)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("as_format", ["jsonl", "csv", "ocsf"])
async def test_what_people_are_not_shown_is_not_exported(desk: Desk, as_format: str) -> None:
    (read,) = (each for each in desk.shop.packets(RecordType.READ) if each["tool"] == "get_ticket")
    email = read["output"]["customer_email"]
    exported = await desk.run("audit", "export", "--format", as_format)
    assert "@" in email  # the record has it
    assert "get_ticket" in exported
    assert email not in exported
