"""The worked proof of docs/log-format.md: its numbers are ours, and a shell without any code of ours checks them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comptroller_audit.checkpoint import open_checkpoint, sign_checkpoint, vkey_of
from comptroller_audit.log import leaf_hash, node_hash, verify_inclusion
from comptroller_audit.sealing import Signer

PAGE = (Path(__file__).parents[2] / "docs" / "log-format.md").read_text(encoding="utf-8")
ENVELOPES = [f'{{"i":{index},"t":{1_790_000_000_000 + index},"type":"read"}}'.encode() for index in range(3)]
SIGNER = Signer("example/checkpoint", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    missing = [name for name in ("sha256sum", "openssl", "perl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"the page's script needs {' and '.join(missing)} on the path")
    words = ["sh", "-eu", "-c", script]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    a, b, c = (leaf_hash(envelope) for envelope in ENVELOPES)
    pair = node_hash(a, b)
    root = node_hash(pair, c)
    assert verify_inclusion(b, 1, 3, [a, c], root)
    assert re.findall(r"^\| (?:leaf [012]|pair|root) \| `([0-9a-f]{64})` \|", PAGE, re.MULTILINE) == [
        each.hex() for each in (a, b, c, pair, root)
    ]
    note = sign_checkpoint("example/log/local", 3, root, SIGNER)
    assert block("text") == f"{note}{vkey_of(SIGNER)}\n"
    assert open_checkpoint(note, vkey_of(SIGNER)).root == root


def test_a_shell_checks_the_proof_of_the_page_by_hand(tmp_path: Path) -> None:
    ran = shell(block("sh"), tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["the entry is in the log", "Signature Verified Successfully"]


def test_the_shell_notices_another_entry(tmp_path: Path) -> None:
    script = block("sh").replace('"type":"read"', '"type":"audit"')
    assert script != block("sh")
    assert shell(script, tmp_path).returncode != 0
