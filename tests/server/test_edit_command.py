"""`comptroller approvals edit`, and approving only what somebody looked at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import RecordType
from comptroller_server.commands.editing import changed
from comptroller_server.errors import CommandError
from tests.scenarios.kit import code_of, structured
from tests.server.cli_kit import Desk, at_work
from tests.server.test_cli_processes import WAIT_S_MAX, Place

SCHEMA: dict[str, Any] = {
    "properties": {
        "usd": {"type": "number"},
        "code": {"type": "string"},
        "maybe": {"type": ["string", "null"]},
        "lines": {"type": "array", "items": {"properties": {"count": {"type": "integer"}}}},
        "to": {"properties": {"city": {"type": "string"}}},
    }
}
BEFORE: dict[str, Any] = {
    "usd": 45,
    "code": "007",
    "lines": [{"count": 1}, {"count": 2}],
    "to": {"city": "Bern"},
}


@pytest.mark.parametrize(
    ("path", "text", "is_json", "after"),
    [
        ("usd", "40", False, {"usd": 40}),
        ("usd", "40.25", False, {"usd": 40.25}),
        ("code", "40", False, {"code": "40"}),
        ("maybe", "null", False, {"maybe": "null"}),
        ("maybe", "null", True, {"maybe": None}),
        ("new", "true", False, {"new": "true"}),
        ("new", '{"a": [1]}', True, {"new": {"a": [1]}}),
        ("lines.1.count", "3", False, {"lines": [{"count": 1}, {"count": 3}]}),
        ("lines.0", '{"count": 9}', True, {"lines": [{"count": 9}, {"count": 2}]}),
        ("to.city", "1", False, {"to": {"city": "1"}}),
    ],
)
def test_a_value_is_taken_as_the_tool_types_it(
    path: str, text: str, is_json: bool, after: dict[str, Any]
) -> None:
    before = {**BEFORE}
    assert changed(before, SCHEMA, [(path, text, is_json)]) == {**BEFORE, **after}
    assert before == BEFORE


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("usd", "forty"),
        ("usd", "NaN"),
        ("usd", "0.1000000000000000055"),
        ("lines.2.count", "1"),
        ("lines.5", "{}"),
        ("lines.-1", "{}"),
        ("nowhere.city", "x"),
        ("code.x", "x"),
        ("lines", '[{"count": 1, "count": 2}]'),
        ("code", "⟦email:1⟧"),
    ],
)
def test_what_cannot_be_meant_is_not_guessed(path: str, text: str) -> None:
    with pytest.raises(CommandError):
        changed(BEFORE, SCHEMA, [(path, text, False)])


@given(
    st.dictionaries(st.text("abc.", min_size=1, max_size=4), st.integers() | st.text(max_size=3), min_size=1),
    st.data(),
)
def test_setting_one_argument_leaves_the_others_alone(before: dict[str, Any], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(before)))
    after = changed(before, {}, [(path, "7", True)])
    assert after == {**before, path: 7}


async def waiting(desk: Desk, usd: float = 45) -> str:
    return await desk.shop.pending(desk.shop.paid()[0], usd)


async def digest_of(desk: Desk, call: str) -> str:
    return str((await desk.json("approvals", "show", call))["digest"])


def with_credential(desk: Desk) -> tuple[str, str]:
    return "--credential-file", str(desk.credential)


@pytest.mark.anyio
async def test_an_edit_asks_anew_and_the_card_shows_both_and_who(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = await waiting(desk)
        words = (
            "approvals",
            "edit",
            call,
            "--set",
            "amount_usd=40",
            "--reason",
            "a part",
            *with_credential(desk),
        )
        said = await desk.run(*words, "--digest", await digest_of(desk, call))
        assert "Edited by olga" in said
        assert "Nobody has agreed to it yet" in said
        card = await desk.run("approvals", "show", call)
        assert '"amount_usd":40' in card
        assert '"amount_usd":45' in card
        assert "amount_usd was 45 and is 40" in card
        assert "by olga at" in card
        assert '"a part"' in card
        assert "pending, edited" in await desk.run("approvals", "list")
        why = await desk.run("why", call)
        assert "amount_usd was 45 and is 40" in why
        assert "olga" in why
        # On a local store, where one is enough, the same person may agree, in a second step.
        told = await desk.json("approvals", "approve", call, "--yes", *with_credential(desk))
        assert told["ok"] is True
        assert structured(await desk.shop.resume(call))["amount_usd"] == 40
        (action,) = desk.shop.packets(RecordType.ACTION)
        assert [(vote["author"], vote["self_approved"]) for vote in action["approvals"]] == [(True, True)]


@pytest.mark.anyio
async def test_where_no_rule_asks_for_what_was_edited_the_card_says_why_a_person_agrees_all_the_same(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path) as desk:
        call = await waiting(desk)
        digest = await digest_of(desk, call)
        await desk.run(
            *("approvals", "edit", call, "--set", "amount_usd=5", "--digest", digest), *with_credential(desk)
        )
        for words in (("approvals", "show", call), ("why", call)):
            said = await desk.run(*words)
            assert "no rule asks for a person now, but what one of them changed is agreed to" in said
        assert "because     issue_refund is open to" not in await desk.run("approvals", "show", call)


@pytest.mark.anyio
async def test_an_edit_that_policy_denies_says_why_and_changes_nothing(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = await waiting(desk)
        before = await desk.json("approvals", "show", call)
        words = ("approvals", "edit", call, "--set", "amount_usd=51", "--yes", *with_credential(desk))
        told = await desk.json(*words, code=1)
        assert told["ok"] is False
        assert "at most 50" in told["problem"]
        assert await desk.json("approvals", "show", call) == before


@pytest.mark.anyio
async def test_an_edit_takes_a_credential_that_the_agent_cannot_read_and_a_role_that_is_asked(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path) as desk:
        call = await waiting(desk)
        cook = tmp_path / "cook.credential"
        enrol = ("approver", "add", "kim", "--role", "cook", "--credential-out", str(cook))
        await desk.run(*enrol, *with_credential(desk))
        words = ("approvals", "edit", call, "--set", "amount_usd=40", "--yes")
        assert "needs the credential" in (await desk.json(*words, code=1))["problem"]
        assert "cook" in (await desk.json(*words, "--credential-file", str(cook), code=1))["problem"]
        assert (await desk.json("approvals", "show", call))["edited"] is None


@pytest.mark.anyio
async def test_a_credential_file_of_the_servers_own_user_edits_nothing(tmp_path: Path) -> None:
    async with at_work(tmp_path, None) as desk:
        call = await waiting(desk)
        words = ("approvals", "edit", call, "--set", "amount_usd=40", "--yes", *with_credential(desk))
        assert (await desk.json(*words, code=1))["ok"] is False
        assert (await desk.json("approvals", "show", call))["edited"] is None


@pytest.mark.anyio
async def test_a_script_names_what_it_agrees_to_or_says_that_it_does_not_look(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = await waiting(desk)
        seen = await digest_of(desk, call)
        for verb in (("approve",), ("edit", "--set", "amount_usd=40")):
            words = ("approvals", *verb, call, *with_credential(desk))
            await desk.run(*words, code=2)
            await desk.run(*words, "--digest", seen[:15], code=2)
            told = await desk.json(*words, "--digest", "0" * 64, code=1)
            assert "another action" in told["problem"]
        assert (await desk.json("approvals", "show", call))["votes"] == []
        edit = ("approvals", "edit", call, "--set", "amount_usd=40", *with_credential(desk))
        await desk.run(*edit, "--digest", seen[:16])
        # Whoever looked before the edit agrees to nothing.
        words = ("approvals", "approve", call, *with_credential(desk), "--digest")
        assert "another action" in (await desk.json(*words, seen, code=1))["problem"]
        assert code_of(await desk.shop.resume(call)) == "approval_pending"
        assert (await desk.json(*words, await digest_of(desk, call)))["ok"] is True


@pytest.mark.anyio
@pytest.mark.parametrize(("typed", "state"), [("n", "pending"), ("y", "approved"), ("", "pending")])
async def test_at_a_terminal_the_card_comes_first_and_the_person_is_asked(
    tmp_path: Path, typed: str, state: str
) -> None:
    """Where nothing is `typed`, the credential is pasted at the wrong question."""
    async with at_work(tmp_path, None) as desk:
        call = await waiting(desk)
        ours, theirs = os.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *Place(tmp_path).words("approvals", "approve", call),
            env=Place(tmp_path).environment | {"NO_COLOR": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown = b""
        async with asyncio.timeout(WAIT_S_MAX):
            while b"[y/N]" not in shown:
                shown += await asyncio.to_thread(os.read, ours, 65_536)
            assert b'"amount_usd":45' in shown
            assert b"digest" in shown
            secret = desk.credential.read_bytes().strip()
            os.write(ours, (typed.encode() or secret) + b"\n")
            if typed == "y":
                while b"credential (" not in shown:
                    shown += await asyncio.to_thread(os.read, ours, 65_536)
                os.write(ours, secret + b"\n")
            with contextlib.suppress(OSError):  # how a terminal ends whose other side is gone
                while more := await asyncio.to_thread(os.read, ours, 65_536):
                    shown += more
            assert await process.wait() == (0 if typed == "y" else 1)
        os.close(ours)
        assert secret not in shown
        assert (b"neither yes nor no" in shown) == (typed == "")
        assert (await desk.json("approvals", "show", call))["state"] == state


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("words", "question"),
    [(("approvals", "approve", "CALL"), b"[y/N]"), (("resume", "--reason", "looked"), b"credential (")],
)
async def test_an_interrupt_at_a_question_ends_the_command_at_once(
    tmp_path: Path, words: tuple[str, ...], question: bytes
) -> None:
    async with at_work(tmp_path, None) as desk:
        call = await waiting(desk)
        ours, theirs = os.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *Place(tmp_path).words(*(word.replace("CALL", call) for word in words)),
            env=Place(tmp_path).environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        shown = b""
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                while question not in shown:
                    shown += await asyncio.to_thread(os.read, ours, 65_536)
                process.send_signal(signal.SIGINT)
                ended = await process.wait()
            shown += os.read(ours, 65_536)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(theirs)
            os.close(ours)
        assert ended == 2
        assert b"Stopped." in shown
        assert desk.shop.moved() == []
