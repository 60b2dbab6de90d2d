# ruff: noqa: S608  # the tampering is SQL put together from fixed names
from __future__ import annotations

import ast
import json
import sqlite3
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

import comptroller_audit
from comptroller_audit.checkpoint import CheckpointFile, log_origin, sign_checkpoint, vkey_of
from comptroller_audit.errors import EvidenceError
from comptroller_audit.findings import FindingKind, Report, TenantReport
from comptroller_audit.log import Frontier, leaf_hash
from comptroller_audit.sealing import KeyRing
from comptroller_audit.verify import verify
from tests.audit.small_log import ENTRIES, SIGNED, TENANT, Store, append, build, copy_of, rewrite


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("original"))


@pytest.fixture
def store(original: Store, tmp_path: Path) -> Store:
    return copy_of(original, tmp_path)


def only(report: Report) -> TenantReport:
    assert len(report.tenants) == 1, report
    return report.tenants[0]


def test_an_untouched_log_is_whole_and_says_what_lies_beyond_the_newest_checkpoint(store: Store) -> None:
    seen: list[tuple[str, int, int]] = []

    def note(tenant: str, done: int, total: int) -> None:
        seen.append((tenant, done, total))

    report = store.verify(receipts=store.receipts, progress=note)
    one = only(report)
    assert report.ok, list(report.lines())
    assert (one.entries, one.checkpoints, one.receipts, one.opened) == (ENTRIES, 2, 1, ENTRIES)
    assert one.beyond == ENTRIES - SIGNED[-1]
    assert f"  {ENTRIES - SIGNED[-1]} entries lie beyond the newest outside checkpoint" in report.lines()
    assert seen == [(TENANT, ENTRIES, ENTRIES)]


def test_the_verifier_imports_nothing_of_the_writer() -> None:
    folder = Path(comptroller_audit.__file__).parent
    writer = {"log", "sealing", "checkpoint", "packets", "store", "unit", "database", "canonical"}
    for name in ("verify", "rebuild", "findings", "evidence", "snapshot"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in named:
                assert module.removeprefix("comptroller_audit.") not in writer, f"{name}.py imports {module}"


_CELLS = [
    ("log_entry", "envelope"),
    ("log_entry", "leaf"),
    ("log_payload", "sealed"),
    ("log_payload", "wrapped"),
    ("log_payload", "key_id"),
]


@given(st.sampled_from(_CELLS), st.integers(0, ENTRIES - 1), st.integers(0), st.integers(0, 7))
def test_any_bit_flipped_in_an_entry_or_its_payload_is_found_and_that_entry_named(
    original: Store, cell: tuple[str, str], index: int, byte: int, bit: int
) -> None:
    table, column = cell
    with tempfile.TemporaryDirectory() as folder:
        store = copy_of(original, Path(folder))
        ((value,),) = store.rows(f"SELECT CAST({column} AS BLOB) FROM {table} WHERE idx = {index}")
        changed = bytearray(value)
        changed[byte % len(value)] ^= 1 << bit
        as_text = column in ("envelope", "key_id")
        sql = f"UPDATE {table} SET {column} = {'CAST(? AS TEXT)' if as_text else '?'} WHERE idx = ?"
        store.sql((sql, (bytes(changed), index)))
        # Only the key file can show that a wrapped key changed; the rest shows without it.
        needs_keys = column in ("wrapped", "key_id")
        assert only(store.verify(ring=store.ring if needs_keys else None)).first_bad == index


@given(st.integers(0, ENTRIES - ENTRIES.bit_count() - 1), st.integers(0, 31), st.integers(0, 7))
def test_any_bit_flipped_in_a_node_is_found_and_its_entries_named(
    original: Store, row: int, byte: int, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = copy_of(original, Path(folder))
        level, index, value = store.rows("SELECT level, idx, hash FROM log_node")[row]
        changed = bytearray(value)
        changed[byte] ^= 1 << bit
        store.sql(
            ("UPDATE log_node SET hash = ? WHERE level = ? AND idx = ?", (bytes(changed), level, index))
        )
        (finding,) = only(store.verify()).findings
        assert finding.kind == FindingKind.NODE
        assert (finding.first, finding.last) == (index << level, ((index + 1) << level) - 1)


@given(st.integers(0), st.integers(0, 7))
def test_any_bit_flipped_in_the_frontier_is_found(original: Store, byte: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = copy_of(original, Path(folder))
        ((frontier,),) = store.rows("SELECT frontier FROM log_head")
        changed = bytearray(frontier.encode())
        changed[byte % len(changed)] ^= 1 << bit
        store.sql(("UPDATE log_head SET frontier = CAST(? AS TEXT)", (bytes(changed),)))
        assert {f.kind for f in only(store.verify()).findings} == {FindingKind.HEAD}


@pytest.mark.parametrize(
    ("tamper", "first_bad"),
    [
        ("UPDATE log_head SET size = 20", 13),
        ("UPDATE log_head SET size = 11", 11),
        ("UPDATE log_head SET record_ms = record_ms - 1", None),
        ("DELETE FROM log_head", 0),
        ("UPDATE log_head SET frontier = frontier || 'ab'", None),
        ("DELETE FROM log_entry WHERE idx = 6", 6),
        ("DELETE FROM log_entry WHERE idx = 0", 0),
        ("DELETE FROM log_entry WHERE idx = 12", 12),
        ("UPDATE log_entry SET idx = 40 WHERE idx = 12", 12),
        ("UPDATE log_entry SET idx = -1 WHERE idx = 0", 0),
        ("UPDATE log_entry SET idx = 'x' WHERE idx = 7", 7),
        ("UPDATE log_entry SET tenant = 'other' WHERE idx = 12", 12),
        ("DELETE FROM log_payload WHERE idx = 5", 5),
        ("UPDATE log_payload SET idx = 40 WHERE idx = 8", 8),
        ("DELETE FROM log_node WHERE level = 1 AND idx = 3", 6),
        ("UPDATE log_node SET level = 9 WHERE level = 1 AND idx = 3", 6),
        ("INSERT INTO log_node VALUES ('local', 6, 0, x'00')", None),
        ("UPDATE log_payload SET sealed = 'text' WHERE idx = 3", 3),
    ],
)
def test_what_was_deleted_added_or_moved_is_found(store: Store, tamper: str, first_bad: int | None) -> None:
    store.sql(tamper)
    one = next(t for t in store.verify().tenants if t.tenant == TENANT)
    assert one.findings
    assert one.first_bad == first_bad


def test_a_payload_without_an_entry_is_found_and_so_is_the_entry_without_a_payload(store: Store) -> None:
    store.sql("UPDATE log_payload SET idx = -4 WHERE idx = 8")
    one = only(store.verify())
    assert {(f.kind, f.first) for f in one.findings} == {
        (FindingKind.PAYLOAD, None),
        (FindingKind.PAYLOAD, 8),
    }
    assert one.first_bad == 8


def test_a_gap_is_named_from_end_to_end_and_the_rest_is_still_checked(store: Store) -> None:
    store.sql(
        "DELETE FROM log_entry WHERE idx BETWEEN 4 AND 6", "DELETE FROM log_payload WHERE idx BETWEEN 4 AND 6"
    )
    store.sql("UPDATE log_entry SET envelope = envelope || ' ' WHERE idx = 9")
    one = only(store.verify())
    assert [(f.kind, f.first, f.last) for f in one.findings] == [
        (FindingKind.GAP, 4, 6),
        (FindingKind.ENTRY, 9, 9),
    ]


def test_two_entries_swapped_whole_are_found(store: Store) -> None:
    store.sql(
        "UPDATE log_entry SET idx = -1 WHERE idx = 5",
        "UPDATE log_entry SET idx = 5 WHERE idx = 10",
        "UPDATE log_entry SET idx = 10 WHERE idx = -1",
    )
    one = only(store.verify())
    assert one.first_bad == 5
    assert 10 in {f.first for f in one.findings}


def test_two_payloads_swapped_with_their_keys_are_found(store: Store) -> None:
    store.sql(
        "UPDATE log_payload SET idx = -1 WHERE idx = 5",
        "UPDATE log_payload SET idx = 5 WHERE idx = 10",
        "UPDATE log_payload SET idx = 10 WHERE idx = -1",
    )
    one = only(store.verify(ring=None))
    assert [(f.kind, f.first) for f in one.findings] == [(FindingKind.PAYLOAD, 5), (FindingKind.PAYLOAD, 10)]


def test_an_entry_dropped_and_the_rest_renumbered_is_found(store: Store) -> None:
    store.sql("DELETE FROM log_entry WHERE idx = 3", "DELETE FROM log_payload WHERE idx = 3")
    for index in range(4, ENTRIES):
        store.sql(
            ("UPDATE log_entry SET idx = ? WHERE idx = ?", (index - 1, index)),
            ("UPDATE log_payload SET idx = ? WHERE idx = ?", (index - 1, index)),
        )
    assert only(store.verify()).first_bad == 3


def test_an_envelope_rewritten_with_its_leaf_is_found_by_the_nodes(store: Store) -> None:
    ((envelope,),) = store.rows("SELECT envelope FROM log_entry WHERE idx = 5")
    forged = envelope.replace('"call":"c5"', '"call":"c9"')
    leaf = leaf_hash(forged.encode())
    store.sql(("UPDATE log_entry SET envelope = ?, leaf = ? WHERE idx = 5", (forged, leaf)))
    one = only(store.verify(checkpoints=None))
    assert (one.findings[0].kind, one.findings[0].first, one.findings[0].last) == (FindingKind.NODE, 4, 5)


def test_the_last_envelope_rewritten_with_its_leaf_is_found_by_the_head_row(store: Store) -> None:
    ((envelope,),) = store.rows("SELECT envelope FROM log_entry WHERE idx = 12")
    forged = envelope.replace('"call":"c12"', '"call":"c19"')
    leaf = leaf_hash(forged.encode())
    store.sql(("UPDATE log_entry SET envelope = ?, leaf = ? WHERE idx = 12", (forged, leaf)))
    one = only(store.verify(checkpoints=None))
    assert [(f.kind, f.first) for f in one.findings] == [(FindingKind.HEAD, 12)]


def test_a_rewritten_history_disagrees_with_the_checkpoints(store: Store) -> None:
    rewrite(store, 6, lambda index, fields: fields.update(call="forged"))
    assert only(store.verify(checkpoints=None)).ok  # without outside evidence nothing can show it
    (finding,) = only(store.verify()).findings
    assert (finding.kind, finding.first, finding.last) == (FindingKind.CHECKPOINT, SIGNED[0], SIGNED[1] - 1)


def test_a_rewritten_entry_past_the_checkpoints_disagrees_with_its_receipt(store: Store) -> None:
    rewrite(store, 12, lambda index, fields: fields.update(call="forged"))
    assert only(store.verify()).ok
    (finding,) = only(store.verify(receipts=store.receipts)).findings
    assert (finding.kind, finding.first) == (FindingKind.RECEIPT, 12)


def truncate(store: Store, size: int) -> None:
    store.sql(
        ("DELETE FROM log_entry WHERE idx >= ?", (size,)),
        ("DELETE FROM log_payload WHERE idx >= ?", (size,)),
    )
    rewrite(store, size, lambda index, fields: None)


def test_a_log_cut_to_before_a_checkpoint_is_found(store: Store) -> None:
    truncate(store, 7)
    assert only(store.verify(checkpoints=None)).ok
    one = only(store.verify())
    assert [(f.kind, f.first, f.last) for f in one.findings] == [(FindingKind.CHECKPOINT, 7, 8)]


def test_a_log_cut_past_the_checkpoints_is_found_by_a_receipt_only(store: Store) -> None:
    truncate(store, 10)
    report = store.verify()
    assert report.ok and only(report).beyond == 1
    assert only(store.verify(receipts=store.receipts)).first_bad == 10


def test_a_tenant_deleted_whole_is_found(store: Store) -> None:
    store.sql(*(f"DELETE FROM {table}" for table in ("log_head", "log_entry", "log_node", "log_payload")))
    assert only(store.verify()).first_bad == 0


def test_a_log_rewritten_and_signed_again_with_another_key_is_found(store: Store, tmp_path: Path) -> None:
    rewrite(store, 2, lambda index, fields: fields.update(call="forged"))
    ((size, frontier),) = store.rows("SELECT size, frontier FROM log_head")
    root = Frontier.decode(size, frontier).root()
    thief = KeyRing.create(tmp_path / "thief.json").signer
    store.checkpoints.unlink()
    CheckpointFile(store.checkpoints).append(
        sign_checkpoint(log_origin("store-1", TENANT), size, root, thief)
    )
    report = store.verify()
    assert not report.ok
    assert "not signed by the verifier key" in report.findings[0].text


def test_two_signed_roots_for_one_size_are_found(store: Store) -> None:
    signer = KeyRing.load(store.ring).signer
    other = sign_checkpoint(log_origin("store-1", TENANT), SIGNED[0], sha256(b"other").digest(), signer)
    CheckpointFile(store.checkpoints).append(other)
    report = store.verify()
    assert "signed two different logs" in report.findings[0].text


def test_a_flipped_checkpoint_proves_nothing_and_is_found(store: Store) -> None:
    text = store.checkpoints.read_text()
    store.checkpoints.write_text(text.replace("\n4\n", "\n5\n"))
    report = store.verify()
    assert "does not fit its text" in report.findings[0].text
    assert only(report).ok and only(report).checkpoints == 1


def test_a_torn_checkpoint_is_passed_over_and_told(store: Store) -> None:
    whole = store.checkpoints.read_bytes()
    store.checkpoints.write_bytes(whole[:-30])
    report = store.verify()
    assert report.ok and report.torn == 1
    assert only(report).beyond == ENTRIES - SIGNED[0]


def erase(store: Store, indexes: range, spans: list[list[int]]) -> None:
    """Erase payloads the way retention will: delete the rows, append an entry that names them."""
    for _ in append(store.url, KeyRing.load(store.ring), 1):
        pass

    def name_them(index: int, fields: dict[str, Any]) -> None:
        fields.update(type="erased", erases=spans)

    rewrite(store, ENTRIES, name_them)
    for index in indexes:
        store.sql(f"DELETE FROM log_payload WHERE idx = {index}")


def test_an_erased_payload_is_erased_only_where_a_later_entry_names_it(store: Store) -> None:
    erase(store, range(2, 6), [[2, 3], [4, 5]])
    report = store.verify()
    assert report.ok, list(report.lines())
    assert only(report).erased == 4


def test_a_payload_gone_beside_the_erased_ones_is_found(store: Store) -> None:
    erase(store, range(2, 8), [[2, 3], [5, 6]])
    one = only(store.verify())
    assert [(f.first, f.last) for f in one.findings] == [(4, 4), (7, 7)]
    assert one.erased == 4


def test_a_payload_that_was_to_be_erased_but_is_there_is_found(store: Store) -> None:
    erase(store, range(2, 3), [[2, 3]])
    assert [(f.kind, f.first) for f in only(store.verify()).findings] == [(FindingKind.PAYLOAD, 3)]


@pytest.mark.parametrize("spans", [[[2, ENTRIES]], [[3, 2]], [["2", 3]], [2], "2-3", [[-1, 2]]])
def test_an_erasure_of_what_is_not_earlier_is_found(store: Store, spans: Any) -> None:
    erase(store, range(0), spans)
    assert only(store.verify()).first_bad == ENTRIES


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"i": 3}, "entries were moved"),
        ({"tenant": "other"}, "tenant 'other'"),
        ({"t": 1}, "record time"),
        ({"v": 2}, "version 1"),
        ({"payload": "AB"}, "payload digest"),
        ({"type": None}, "version 1"),
    ],
)
def test_a_consistent_log_with_a_wrong_envelope_is_found(
    store: Store, change: dict[str, Any], says: str
) -> None:
    def wrong(index: int, fields: dict[str, Any]) -> None:
        fields.update(change if index == 11 else {})

    rewrite(store, 11, wrong)
    one = only(store.verify())
    assert one.first_bad == 11 and says in one.findings[0].text


def test_one_changed_entry_is_told_once_not_once_for_each_hash_above_it(store: Store) -> None:
    store.sql("UPDATE log_entry SET envelope = envelope || ' ' WHERE idx = 5")
    kinds = [f.kind for f in only(store.verify()).findings]
    assert kinds == [FindingKind.ENTRY, FindingKind.CHECKPOINT]


def test_a_payload_under_an_unlisted_key_is_found_only_with_the_key_file(store: Store) -> None:
    store.sql("UPDATE log_payload SET key_id = 'seal-gone' WHERE idx = 9")
    report = store.verify(ring=None)
    assert report.ok and "  payload keys not checked: no key file was given" in report.lines()
    assert "does not list" in only(store.verify()).findings[0].text


def test_a_log_longer_than_a_page_is_verified_across_the_pages(tmp_path: Path) -> None:
    ring = KeyRing.create(tmp_path / "keys.json")
    store = Store(tmp_path, vkey_of(ring.signer))
    for _ in append(store.url, ring, 2500):
        pass
    seen: list[int] = []

    def note(tenant: str, done: int, total: int) -> None:
        seen.append(done)

    report = store.verify(checkpoints=None, progress=note)
    assert report.ok and seen == [1024, 2048, 2500]
    store.sql("UPDATE log_node SET hash = x'00' WHERE level = 11 AND idx = 0")
    assert [(f.first, f.last) for f in only(store.verify(checkpoints=None)).findings] == [(0, 2047)]


def test_each_tenant_is_judged_alone(store: Store) -> None:
    for _ in append(store.url, KeyRing.load(store.ring), 5, tenant="other"):
        pass
    store.sql("UPDATE log_entry SET envelope = 'x' WHERE tenant = 'other' AND idx = 2")
    report = store.verify()
    assert {t.tenant: t.first_bad for t in report.tenants} == {"local": None, "other": 2}
    assert store.verify(tenant="local").ok and not store.verify(tenant="other").ok


def test_a_damaged_file_is_a_finding_not_a_crash(store: Store) -> None:
    for _ in append(store.url, KeyRing.load(store.ring), 200):
        pass
    ((page_size,),) = store.rows("PRAGMA page_size")
    data = bytearray(store.file.read_bytes())
    for start in range(10 * page_size, len(data), page_size):
        data[start : start + 64] = b"\xff" * 64
    store.file.write_bytes(bytes(data))
    one = next(t for t in store.verify(tenant=TENANT).tenants)
    assert FindingKind.STORE in {f.kind for f in one.findings}


def test_verifying_writes_nothing(store: Store) -> None:
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    store.file.chmod(0o400)
    assert store.verify().ok
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before


def test_a_closed_store_in_wal_mode_is_verified_and_left_as_it_was(store: Store) -> None:
    writer = sqlite3.connect(store.file, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.close()
    before = store.file.read_bytes()
    assert store.verify().ok
    assert store.file.read_bytes() == before


def test_a_log_in_wal_mode_is_verified_while_a_writer_has_it_open(store: Store) -> None:
    writer = sqlite3.connect(store.file, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE log_entry SET envelope = 'not committed' WHERE idx = 3")
    assert store.verify().ok
    writer.execute("ROLLBACK")
    writer.close()


def test_what_cannot_be_read_at_all_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="no store at"):
        verify(f"sqlite:///{tmp_path / 'absent.db'}")
    with pytest.raises(EvidenceError, match="no database URL"):
        verify("nonsense")
    with pytest.raises(EvidenceError, match="mysql holds no store"):
        verify("mysql://localhost/x")
    with pytest.raises(EvidenceError, match="prove nothing without the verifier key"):
        verify(store.url, checkpoints=store.checkpoints)
    with pytest.raises(EvidenceError, match="is no verifier key"):
        store.verify(vkey=store.vkey[:-4] + "AAA=")
    with pytest.raises(EvidenceError, match="cannot be read"):
        store.verify(checkpoints=tmp_path / "absent")
    with pytest.raises(EvidenceError, match="cannot be read"):
        store.verify(receipts=tmp_path / "absent")
    with pytest.raises(EvidenceError, match="malformed"):
        store.verify(ring=store.receipts)
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    with pytest.raises(EvidenceError, match="no such table"):
        verify(f"sqlite:///{empty}")


def test_a_report_reads_the_same_to_a_program(store: Store) -> None:
    store.sql("DELETE FROM log_payload WHERE idx = 5")
    report = json.loads(json.dumps(store.verify().as_json()))
    (one,) = report["tenants"]
    assert (report["ok"], one["tenant"], one["ok"], one["first_bad"], one["beyond"]) == (
        False,
        TENANT,
        False,
        5,
        4,
    )
    assert one["findings"][0]["kind"] == "payload"


def test_a_line_that_is_no_receipt_is_found(store: Store) -> None:
    with store.receipts.open("a") as file:
        file.write('{"log": "local", "index": true, "leaf": "00"}\n')
    report = store.verify(receipts=store.receipts)
    assert "line 2" in report.findings[0].text


@pytest.mark.parametrize(
    "line",
    [
        '{"log": "local\\ud800", "index": 1, "leaf": "' + "00" * 32 + '"}',
        '{"log": "local", "index": 12, "leaf": "' + "00" * 32 + '", "leaf": "' + "11" * 32 + '"}',
    ],
)
def test_a_receipt_that_names_no_log_or_says_two_things_is_found(store: Store, line: str) -> None:
    store.receipts.write_text(line + "\n")
    (finding,) = store.verify(receipts=store.receipts).findings
    assert "line 1" in finding.text


def test_a_second_head_row_is_found_though_the_table_allowed_it(store: Store) -> None:
    store.sql("CREATE TABLE copied AS SELECT * FROM log_head", "DROP TABLE log_head")
    store.sql("ALTER TABLE copied RENAME TO log_head", "INSERT INTO log_head SELECT * FROM log_head")
    (finding,) = only(store.verify()).findings
    assert (finding.kind, "2 head rows" in finding.text) == (FindingKind.HEAD, True)


def test_a_key_file_whose_numbers_are_none_is_an_error_in_words(store: Store) -> None:
    keys = json.loads(store.ring.read_text())
    old = {"id": "old", "public": "", "entries": 1}
    store.ring.write_text(json.dumps(keys | {"retired": [old]}).replace('"entries": 1', '"entries": 1e400'))
    with pytest.raises(EvidenceError, match="malformed"):
        store.verify()


def test_a_verifier_key_with_half_a_character_is_an_error_in_words(store: Store) -> None:
    with pytest.raises(EvidenceError, match="is no verifier key"):
        store.verify(vkey="\ud800" + store.vkey)


def test_a_log_in_postgres_is_verified_and_tampering_found(postgres_url: str, tmp_path: Path) -> None:
    ring = KeyRing.create(tmp_path / "keys.json")
    for _ in append(postgres_url, ring, 40):
        pass
    report = verify(postgres_url, ring=tmp_path / "keys.json")
    assert report.ok and only(report).opened == 40, list(report.lines())
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE log_entry SET envelope = envelope || ' ' WHERE idx = 17")
    engine.dispose()
    assert only(verify(postgres_url)).first_bad == 17
