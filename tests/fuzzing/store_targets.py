# ruff: noqa: S608  # the tampering is SQL put together from fixed names
"""`audit verify` under rows that anybody may have written: any column, any type, and files of evidence beside them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comptroller_audit import evidence, rebuild, snapshot
from comptroller_audit.checkpoint import CheckpointFile, log_origin, sign_checkpoint
from comptroller_audit.errors import EvidenceError
from comptroller_audit.findings import Report
from comptroller_audit.log import Frontier, leaf_hash
from comptroller_audit.sealing import KeyRing
from comptroller_server.commands.showing import plain
from tests.audit.small_log import ENTRIES, TENANT, Store, build, copy_of
from tests.fuzzing.target import HOSTILE, Choices, Target, changed_somewhere, spelled

__all__ = ["TARGETS"]

EDITS_MAX = 4
COLUMNS = {
    "log_head": ("tenant", "size", "frontier", "record_ms"),
    "log_entry": ("tenant", "idx", "envelope", "leaf"),
    "log_node": ("tenant", "level", "idx", "hash"),
    "log_payload": ("tenant", "idx", "key_id", "wrapped", "sealed"),
}
Rows = dict[str, list[tuple[Any, ...]]]


def _stores(folder: Path) -> Callable[[bytes], None]:
    base = _signed_whole(folder / "base")
    strict, rows = base.file.read_bytes(), _rows(base)
    loose = _without_constraints(copy_of(base, folder / "loose")).file.read_bytes()
    store = copy_of(base, folder / "tried")

    def target(data: bytes) -> None:
        chosen = Choices(data)
        store.file.write_bytes(loose if chosen.byte() % 2 else strict)
        refitted = _tampered(store, chosen) if chosen.left else False
        found = _rows(store)
        try:
            report = store.verify(receipts=store.receipts)
        except EvidenceError as error:
            plain(str(error)).encode()
            return
        _tellable(report)
        assert not report.ok or found == rows, f"changed rows are said to be whole (refitted: {refitted})"

    return target


def _signed_whole(folder: Path) -> Store:
    folder.mkdir(parents=True)
    store = build(folder)
    frontier = Frontier.decode(*store.rows("SELECT size, frontier FROM log_head")[0])
    signer = KeyRing.load(store.ring).signer
    CheckpointFile(store.checkpoints).append(
        sign_checkpoint(log_origin("store-1", TENANT), ENTRIES, frontier.root(), signer)
    )
    return store


def _without_constraints(store: Store) -> Store:
    """The same rows in tables with no key and no type, as who can write the schema leaves them."""
    connection = sqlite3.connect(store.file)
    with connection:
        for table in COLUMNS:
            connection.execute(f"CREATE TABLE copied AS SELECT * FROM {table}")
            connection.execute(f"DROP TABLE {table}")
            connection.execute(f"ALTER TABLE copied RENAME TO {table}")
    connection.close()
    return store


def _rows(store: Store) -> Rows:
    """Every row as types and bytes. The head's time may run ahead of the log; a head without entries says nothing."""
    connection = sqlite3.connect(store.file)
    found: Rows = {}
    for table, columns in COLUMNS.items():
        cells = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in columns if name != "record_ms")
        where = (
            f"WHERE tenant IS NOT '{TENANT}' AND size = 0 AND frontier = ''"
            if table == "log_head"
            else "WHERE 0"
        )
        kept = f"SELECT {cells} FROM {table} EXCEPT SELECT {cells} FROM {table} {where}"
        found[table] = sorted(connection.execute(kept).fetchall(), key=repr)
        count = connection.execute(f"SELECT count(*) FROM {table} WHERE NOT ({where[6:]})").fetchone()
        found[table].append(count)
    connection.close()
    return found


def _tampered(store: Store, chosen: Choices) -> bool:
    connection = sqlite3.connect(store.file, isolation_level=None)
    connection.execute("BEGIN")
    refit = False
    for _ in range(EDITS_MAX):
        if chosen.left:
            # What the table does not take is an edit that did not happen.
            with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                _edited(connection, chosen)
    if chosen.byte() % 4 == 1:
        with contextlib.suppress(sqlite3.Error, AttributeError, TypeError):
            _refitted(connection)
            refit = True
    connection.execute("COMMIT")
    connection.close()
    return refit


def _edited(connection: sqlite3.Connection, chosen: Choices) -> None:
    table = chosen.one_of(list(COLUMNS))
    ids = [row[0] for row in connection.execute(f"SELECT rowid FROM {table}")]
    if not ids:
        return
    row, other, column = chosen.one_of(ids), chosen.one_of(ids), chosen.one_of(COLUMNS[table])
    names = ", ".join(
        name for name, *_ in connection.execute(f"SELECT name FROM pragma_table_info('{table}')")
    )
    ((before,),) = connection.execute(f"SELECT CAST({column} AS BLOB) FROM {table} WHERE rowid = ?", (row,))
    ((typed,),) = connection.execute(
        f"SELECT CASE typeof({column}) WHEN 'text' THEN '' ELSE {column} END FROM {table} WHERE rowid = ?",
        (row,),
    )
    match chosen.byte() % 8:
        case 0:
            connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
        case 1:
            connection.execute(
                f"UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE rowid = ?) WHERE rowid = ?",
                (other, row),
            )
        case 2:
            copied = names.replace(column, "?", 1)
            connection.execute(
                f"INSERT INTO {table} ({names}) SELECT {copied} FROM {table} WHERE rowid = ?",
                (_cell(typed, chosen), row),
            )
        case 3:
            kind = chosen.one_of(("TEXT", "BLOB", "INTEGER", "REAL"))
            connection.execute(
                f"UPDATE {table} SET {column} = CAST({column} AS {kind}) WHERE rowid = ?", (row,)
            )
        case 4:
            changed = bytearray(before or b"\x00")
            changed[chosen.below(len(changed)) % len(changed)] ^= 1 << chosen.byte() % 8
            kind = chosen.one_of(("TEXT", "BLOB"))
            connection.execute(
                f"UPDATE {table} SET {column} = CAST(? AS {kind}) WHERE rowid = ?", (bytes(changed), row)
            )
        case 5:
            connection.execute(f"UPDATE {table} SET {column} = ?", (_cell(typed, chosen),))
        case 6 if table == "log_entry":
            _other_envelope(connection, row, chosen)
        case _:
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (_cell(typed, chosen), row)
            )


def _cell(before: Any, chosen: Choices) -> Any:
    value = chosen.one_of(
        (
            None,
            -1,
            0,
            2**63 - 1,
            -(2**63),
            1.5,
            "",
            "x",
            b"",
            "1",
            "other",
            before,
            b"\xff" * 32,
            chosen.one_of(HOSTILE),
        )
    )
    if type(before) is int and chosen.byte() % 2:
        return before + chosen.byte() % 5 - 2
    return value if isinstance(value, int | float | str | bytes | None) else spelled(value)


def _other_envelope(connection: sqlite3.Connection, row: int, chosen: Choices) -> None:
    """An envelope of another meaning, spelled as the writer spells."""
    ((text,),) = connection.execute("SELECT envelope FROM log_entry WHERE rowid = ?", (row,))
    try:
        changed = changed_somewhere(
            json.loads(text) | {"type": chosen.one_of(("action", "erased")), "erases": [[0, 1]]}, chosen
        )
        written = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        written = "{}"
    connection.execute("UPDATE log_entry SET envelope = ? WHERE rowid = ?", (written, row))


def _refitted(connection: sqlite3.Connection) -> None:
    """Every hash made to fit the envelopes again, as who owns the database can."""
    frontier = Frontier()
    rows = connection.execute(
        "SELECT rowid, envelope FROM log_entry WHERE tenant = ? ORDER BY idx", (TENANT,)
    ).fetchall()
    connection.execute("DELETE FROM log_node WHERE tenant = ?", (TENANT,))
    for row, envelope in rows:
        leaf = leaf_hash(envelope.encode())
        connection.execute("UPDATE log_entry SET leaf = ? WHERE rowid = ?", (leaf, row))
        for level, at, value in frontier.append(leaf):
            connection.execute("INSERT INTO log_node VALUES (?, ?, ?, ?)", (TENANT, level, at, value))
    connection.execute(
        "UPDATE log_head SET size = ?, frontier = ? WHERE tenant = ?",
        (frontier.size, frontier.encode(), TENANT),
    )


def _tellable(report: Report) -> None:
    json.dumps(report.as_json())
    for line in report.lines():
        plain(line).encode()


# ------------------------------------------------------------------------------------------------ evidence


def _evidence(folder: Path) -> Callable[[bytes], None]:
    base = _signed_whole(folder / "base")
    store = copy_of(base, folder / "tried")
    texts = {name: (base.folder / name).read_bytes() for name in ("receipts", "checkpoints", "keys.json")}

    def target(data: bytes) -> None:
        chosen = Choices(data)
        for name, text in texts.items():
            (store.folder / name).write_bytes(_written(text, chosen) if chosen.byte() % 2 else text)
        try:
            _tellable(store.verify(receipts=store.receipts))
        except EvidenceError as error:
            plain(str(error)).encode()

    return target


def _written(text: bytes, chosen: Choices) -> bytes:
    if text.startswith(b"{") and chosen.byte() % 4:
        return spelled(changed_somewhere(json.loads(text), chosen)).encode() + b"\n"
    at = chosen.below(len(text))
    other = chosen.one_of((chosen.taken(20), b"========\n", b"\xed\xa0\x80", b"\n\n", text, b"1e400"))
    return text[:at] + other + text[at + chosen.byte() % 3 :]


_SQL = tuple(
    bytes((kind % 2, table, 3, 4, column, kind, 5, 6, 7, 8, 0, 1))
    for table in range(4)
    for column in range(4)
    for kind in (0, 2, 4, 6, 7)
)
TARGETS = (
    Target("stores", _stores, _SQL, (rebuild, snapshot), 60),
    Target(
        "evidence",
        _evidence,
        tuple(bytes((at, at >> 1, at >> 2, 1, 2, 3, 7, 7)) for at in range(8)),
        (evidence,),
        60,
    ),
)
