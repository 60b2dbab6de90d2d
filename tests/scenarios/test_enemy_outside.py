"""What reaches us from outside a client's own calls: headers, and characters made to deceive a person's eye."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from comptroller_server.commands.showing import plain
from comptroller_server.face.http import build_app, subject_of
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.face.protocol import build_server
from tests.server.small_governor import SmallGovernor


@pytest.mark.anyio
@pytest.mark.parametrize(
    "name", [b"comptroller-grant", b"Comptroller-Task", b"Comptroller-Grant", b"comptroller-x"]
)
async def test_a_header_of_ours_that_is_not_understood_is_never_passed_over(
    tmp_path: Path, name: bytes
) -> None:
    governor = SmallGovernor()
    identity = LocalIdentity("test", "ana", (), ["bot"], tmp_path / "tokens")
    app = build_app(build_server(governor, subject_of=subject_of, version="1"), identity)
    token = identity.token_file("bot").read_text().strip()
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the body of a refused request is not read")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:1"), (b"authorization", f"Bearer {token}".encode()), (name, b"x")]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers, "server": ("127.0.0.1", 1)}
    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert governor.seen == []


@pytest.mark.parametrize(
    "character",
    ["\x1b", "\x9b", "\x00", "\u202e", "\u2066", "\u200b", "\u00ad", "\ufeff", "\u3164", "\u115f", "\uffa0", "\u2800",
     "\ufe0f", "\U000e0101", "\U000e0041", "\u034f", "\u2028", "\u00a0"],
)  # fmt: skip
def test_what_shows_nothing_or_turns_text_around_is_shown_by_its_number(character: str) -> None:
    shown = plain(f"inv_1{character}")
    assert shown.isascii()
    assert shown.removeprefix("inv_1").startswith("\\")


@pytest.mark.parametrize("text", ["Zoë Müller", "請求書 7", "नमस्ते", "40 € – “ok”", "👍"])
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
