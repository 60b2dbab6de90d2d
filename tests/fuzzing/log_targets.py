"""The verifier under changed exports, notes, proofs and stores: it ends in words, and never says whole of what was changed."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from comptroller_audit import checkpoint, exported, log
from comptroller_audit.checkpoint import log_origin, open_checkpoint, sign_checkpoint, vkey_of
from comptroller_audit.errors import CheckpointError, EvidenceError
from comptroller_audit.exported import FORMAT, ExportReport, check_export
from comptroller_audit.log import (
    Frontier,
    inclusion_proof,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from comptroller_audit.packets import LogRecord, compose
from comptroller_audit.sealing import KeyRing, Signer
from comptroller_audit.vocabulary import RecordType
from comptroller_server.commands.showing import plain
from tests.fuzzing.target import Choices, Target, changed_somewhere, spelled

__all__ = ["TARGETS", "export_of"]

ENTRIES, SIGNED = 13, 9
EDITS_MAX = 6
LOGS = ("local", "other")


def log_of(
    ring: KeyRing, tenant: str, entries: int = ENTRIES
) -> tuple[list[bytes], list[dict[str, Any]], Callable[[int, int], bytes]]:
    """Leaves and envelopes of a log that the product's own writer composed, and a reader of its nodes."""
    frontier, nodes = Frontier(), dict[tuple[int, int], bytes]()
    envelopes: list[dict[str, Any]] = []
    leaves: list[bytes] = []
    for index in range(entries):
        record = LogRecord(
            RecordType.ACTION, {"v": 1, "tool": "refund", "text": "é"}, call=f"c{index}", arguments=b"{}"
        )
        entry = compose(ring, tenant, index, 1_700_000_000_000 + index // 3, record)
        nodes[0, index] = entry.leaf
        nodes.update({(level, at): value for level, at, value in frontier.append(entry.leaf)})
        envelopes.append(json.loads(entry.envelope))
        leaves.append(entry.leaf)
    return leaves, envelopes, lambda level, index: nodes[level, index]


def export_of(ring: KeyRing, tenant: str) -> list[str]:
    """What `audit export` writes of such a log, `SIGNED` of whose entries are signed."""
    leaves, envelopes, read = log_of(ring, tenant)
    origin = log_origin("store-1", tenant)
    head = {
        "export": FORMAT,
        "log": origin,
        "first": 0,
        "end": ENTRIES,
        "at_ms": 1,
        "vkey": vkey_of(ring.signer),
    }
    lines = [
        json.dumps(head | {"checkpoint": sign_checkpoint(origin, SIGNED, root_at(read, SIGNED), ring.signer)})
    ]
    for index, envelope in enumerate(envelopes):
        proof = [node.hex() for node in inclusion_proof(read, index, SIGNED)] if index < SIGNED else None
        told = {"type": envelope["type"], "at_ms": envelope["t"], "leaf": leaves[index].hex()}
        lines.append(
            json.dumps(
                {
                    "index": index,
                    **told,
                    "envelope": envelope,
                    "packet": {"amount": 12.5, "text": "é"},
                    "proof": proof,
                }
            )
        )
    return lines


# ------------------------------------------------------------------------------------------------- exports


def _exports(folder: Path) -> Callable[[bytes], None]:
    ring = KeyRing.create(folder / "keys.json")
    originals = {tenant: export_of(ring, tenant) for tenant in LOGS}
    vkey = vkey_of(ring.signer)
    meant = {
        log_origin("store-1", tenant): [_meaning(line, last=True) for line in lines[1:]]
        for tenant, lines in originals.items()
    }

    def target(data: bytes) -> None:
        chosen = Choices(data)
        lines = list(originals["local"])
        for _ in range(EDITS_MAX):
            if chosen.left:
                _edited(lines, chosen, originals["other"])
        try:
            report = check_export(lines, vkey)
        except EvidenceError as error:
            plain(str(error)).encode()
            return
        _tellable(report)
        if report.ok:
            _same_meaning(lines, report, meant)

    return target


def _edited(lines: list[str], chosen: Choices, others: list[str]) -> None:
    if not lines:
        return
    at, to = chosen.below(len(lines)), chosen.below(len(lines))
    line = lines[at]
    match chosen.byte() % 12:
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, line)
        case 2:
            lines[at], lines[to] = lines[to], line
        case 3:
            lines[at] = others[to % len(others)]
        case 4:
            lines[at] = line[: chosen.below(len(line))]
        case 5:
            lines[at] = unicodedata.normalize(chosen.one_of(("NFC", "NFD", "NFKC")), line)
        case 6:
            lines[at] = _doubled(line, chosen)
        case 7:
            place = chosen.below(len(line))
            lines[at] = line[:place] + chosen.taken(12).decode("latin-1") + line[place + chosen.byte() % 3 :]
        case 8:
            lines[at] = _digits(line, chosen)
        case _:
            tree: Any = _parsed(line)
            lines[at] = spelled(changed_somewhere(tree, chosen))


def _doubled(line: str, chosen: Choices) -> str:
    """The same member twice, with another value, before or behind, at the top or in the envelope."""
    tree = _parsed(line)
    if not isinstance(tree, dict) or not tree:
        return line
    members = cast("dict[str, Any]", tree)
    inner = members.get("envelope")
    name = chosen.one_of(list(members))
    other = spelled(
        chosen.value(members[name]) if chosen.byte() % 2 else changed_somewhere(members[name], chosen)
    )
    extra, text = f"{json.dumps(name)}: {other}", json.dumps(members)
    if isinstance(inner, dict) and inner and chosen.byte() % 2:
        deep = chosen.one_of(list(cast("dict[str, Any]", inner)))
        return text.replace(
            '"envelope": {', f'"envelope": {{{json.dumps(deep)}: {spelled(chosen.value(inner[deep]))}, ', 1
        )
    return f"{{{extra}, {text[1:]}" if chosen.byte() % 2 else f"{text[:-1]}, {extra}}}"


def _digits(line: str, chosen: Choices) -> str:
    """A number spelled otherwise: longer, as a fraction, with an exponent, or with more digits than are kept."""
    tree = _parsed(line)
    numbers = [name for name in ("index", "at_ms", "first", "end") if isinstance(tree, dict) and name in tree]
    if not numbers:
        return line
    name = chosen.one_of(numbers)
    was = json.dumps(tree[name])
    new = chosen.one_of(
        (
            f"{was}.0",
            f"{was}e0",
            f"{was}.0000000000000000000000001",
            f"-{was}",
            f"0{was}",
            "9" * 4_300,
            "1e400",
            "NaN",
        )
    )
    found = chosen.one_of((f'"{name}": {was}', f'"t": {was}', f'"i": {was}'))
    return line.replace(found, found.replace(was, new))


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _meaning(line: str, *, last: bool) -> Any:
    """What a line says, to a reader who takes the last or the first of two equal names, numbers exactly."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(pairs if last else pairs[::-1])

    def number(token: str) -> tuple[str, Decimal]:
        return "number", Decimal(token)

    found: dict[str, Any] = json.loads(line, object_pairs_hook=members, parse_int=number, parse_float=number)
    return {name: found.get(name) for name in ("index", "type", "at_ms", "leaf", "envelope")}


def _tellable(report: ExportReport) -> None:
    json.dumps(report.as_json())
    for line in report.lines():
        plain(line).encode()


def _same_meaning(lines: list[str], report: ExportReport, meant: dict[str, list[Any]]) -> None:
    entries = [line for line in lines[1:] if line.strip()]
    assert len(entries) == report.proved + report.beyond == report.end - report.first
    for index, line in enumerate(entries[: report.proved], report.first):
        for last in (True, False):
            assert _meaning(line, last=last) == meant[report.log][index], f"entry {index} says something else"


# --------------------------------------------------------------------------------------- notes and proofs


def _signer() -> Signer:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Signer("comptroller/x", Ed25519PrivateKey.from_private_bytes(bytes(32)))


NOTE = sign_checkpoint(log_origin("comptroller/x", "local"), 7, bytes(32), _signer())


def _notes(_: Path) -> Callable[[bytes], None]:
    key = vkey_of(_signer())

    def target(data: bytes) -> None:
        for text, vkey in _note_and_key(data, key):
            try:
                opened = open_checkpoint(text, vkey)
            except CheckpointError as error:
                plain(str(error)).encode()
                continue
            assert (opened.origin, opened.size, opened.root) == ("comptroller/x/local", 7, bytes(32)), opened
            assert opened.ext == ()

    return target


def _note_and_key(data: bytes, key: str) -> Iterator[tuple[str, str]]:
    text = data.decode(errors="surrogatepass") if _decodes(data) else data.decode("latin-1")
    yield text, key
    yield NOTE, text
    chosen = Choices(data)
    place = chosen.below(len(NOTE))
    other = chosen.one_of(
        ("", "\ud800", "\n", "\n\n", "\u2028", " ", "=", "+", "A", "\x00", "— x y\n", "9" * 5_000, "\r")
    )
    yield NOTE[:place] + other + NOTE[place + chosen.byte() % 4 :], key
    yield NOTE, key[: place % len(key)] + other + key[place % len(key) + chosen.byte() % 4 :]


def _decodes(data: bytes) -> bool:
    try:
        data.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _merkle(folder: Path) -> Callable[[bytes], None]:
    leaves, _, read = log_of(KeyRing.create(folder / "keys.json"), "local", 23)
    roots = [root_at(read, size) for size in range(len(leaves) + 1)]
    hashes = [
        *leaves,
        *roots,
        *(read(level, at) for level in range(1, 5) for at in range(len(leaves) >> level)),
        b"",
        b"x" * 32,
    ]

    def target(data: bytes) -> None:
        chosen = Choices(data)
        size, index, leaf = chosen.below(len(leaves)) + 1, chosen.below(len(leaves)), chosen.one_of(leaves)
        right = inclusion_proof(read, min(index, size - 1), size)
        if verify_inclusion(leaf, index, size, _other(right, hashes, chosen), roots[size]):
            assert index < size and leaf == leaves[index]
        assert verify_inclusion(leaves[min(index, size - 1)], min(index, size - 1), size, right, roots[size])
        first, root = chosen.below(len(leaves) + 2) - 1, chosen.one_of(roots)
        some = log.consistency_proof(read, max(0, min(first, size)), size)
        if verify_consistency(first, size, root, roots[size], _other(some, hashes, chosen)):
            assert 0 <= first <= size and root == roots[first]

    return target


def _other(proof: list[bytes], hashes: list[bytes], chosen: Choices) -> list[bytes]:
    found = list(proof)
    for _ in range(chosen.byte() % 4):
        at = chosen.below(len(found) + 1)
        found[at : at + chosen.byte() % 2] = [chosen.one_of(hashes)] * (chosen.byte() % 3)
    return found


_PROGRAMS = tuple(bytes((0, at, 0, at + 1, kind, 4, 0, 1, 2, 3)) for kind in range(10) for at in (0, 2))
TARGETS = (
    Target("exports", _exports, _PROGRAMS, (exported,), 200),
    Target(
        "notes",
        _notes,
        (NOTE.encode(), base64.b64encode(bytes(40)), vkey_of(_signer()).encode()),
        (checkpoint,),
        400,
    ),
    Target("merkle proofs", _merkle, (bytes(8), bytes(range(24))), (log,), 400),
)
