"""A secret planted wherever a tool can put one reaches no sink: answer, progress, log, database or stderr."""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any

import pytest

from comptroller_server.call.proposal import Proposal
from tests.scenarios.kit import WHY, Changes, code_of, opened, tool_of

pytestmark = pytest.mark.anyio
SECRET = "hunter2-swordfish"
FORMS = (SECRET, base64.b64encode(SECRET.encode()).decode())
ODD = Path(__file__).with_name("odd_tools.py")


def odd_tools(*names: str) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["odd"] = {"python": str(ODD)}
        for name in names or ("spill", "confess", "mutter"):
            config["tools"].append({"name": name, "allow_actions": ["read"]})

    return change


def searched(folder: Path, *texts: str, forms: tuple[str, ...] = FORMS) -> list[str]:
    """Where a form stands: in a file of the store, or in one of `texts`."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".yaml"]
    return [
        *(text[:200] for text in texts if any(form in text for form in forms)),
        *(str(file) for file in files if any(form.encode() in file.read_bytes() for form in forms)),
    ]


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ODD_TOOLS_LEDGER", str(tmp_path / "odd.txt"))
    return tmp_path / "odd.txt"


def test_the_tools_hold_the_secret_this_module_looks_for() -> None:
    assert f'SECRET = "{SECRET}"' in ODD.read_text()
    assert FORMS[1] in ODD.read_text()


@pytest.mark.parametrize("where", ["value", "key", "nested", "base64"])
async def test_a_secret_in_a_result_is_withheld_everywhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    async with opened(tmp_path, odd_tools(), secrets=(SECRET,)) as shop:
        answer = await shop.call("spill", where=where)
        assert code_of(answer) is None
        assert "withheld" in answer.text
        packets = str(shop.packets())
    out, err = capfd.readouterr()
    assert searched(tmp_path, answer.text, str(answer.structured), str(answer.meta), packets, out, err) == []


async def test_without_a_configured_secret_the_same_search_finds_it(tmp_path: Path) -> None:
    async with opened(tmp_path, odd_tools()) as shop:
        answer = await shop.call("spill")
        assert searched(tmp_path, answer.text, str(shop.packets())) != []


@pytest.mark.parametrize("how", ["told", "raised"])
async def test_a_secret_in_an_error_is_withheld_everywhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened(tmp_path, odd_tools(), secrets=(SECRET,)) as shop:
        answer = await shop.call("confess", secret=how)
        assert code_of(answer) == "tool_failed"
        packets = str(shop.packets())
    out, err = capfd.readouterr()
    assert searched(tmp_path, answer.text, str(answer.meta), packets, out, err, caplog.text) == []


async def test_a_secret_in_progress_is_withheld(tmp_path: Path) -> None:
    said: list[str | None] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        said.append(message)

    async with opened(tmp_path, odd_tools(), secrets=(SECRET,)) as shop:
        answer = await shop.service.pipeline.call(Proposal(shop.subject, "mutter", {}, progress=progress))
        assert code_of(answer) is None
    (message,) = said
    assert message is not None
    assert message.startswith("logging in with ")
    assert SECRET not in message


@pytest.mark.parametrize(
    "where",
    [
        {"invoice_id": "inv_a", "amount_usd": 5, "reason_code": SECRET},
        {"invoice_id": SECRET, "amount_usd": 5, "reason_code": "goodwill"},
        {"invoice_id": "inv_a", "amount_usd": 5, "reason_code": "goodwill", SECRET: 1},
    ],
)
async def test_a_secret_in_arguments_is_sent_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], where: dict[str, Any]
) -> None:
    async with opened(tmp_path, secrets=(SECRET,)) as shop:
        answer = await shop.call("issue_refund", {**where, "why": WHY})
        assert answer.is_error
        assert shop.moved() == []
        packets = str(shop.packets())
    out, err = capfd.readouterr()
    assert searched(tmp_path, answer.text, str(answer.meta), packets, out, err) == []


async def test_a_secret_in_arguments_that_fit_or_in_why_is_refused_by_its_own_code(tmp_path: Path) -> None:
    async with opened(tmp_path, odd_tools(), secrets=(SECRET,)) as shop:
        searching = await shop.call("search_tickets", query=f"password {SECRET}")
        assert code_of(searching) == "secret_in_arguments"
        reasons = [{"reason": f"The key is {form}."} for form in FORMS]
        refunds = [await shop.refund(shop.paid()[0], 5, why=reason) for reason in reasons]
        assert {code_of(refund) for refund in refunds} == {"secret_in_arguments"}
        named = await shop.call(f"tool_{SECRET}")
        assert code_of(named) == "unknown_tool"
        assert shop.moved() == []
        assert searched(tmp_path, searching.text, str(refunds), named.text, str(shop.packets())) == []


async def test_what_is_sealed_in_the_store_cannot_be_read_from_its_bytes(tmp_path: Path) -> None:
    words = "An unusual reason nobody else would write."

    def keyless(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["approval"] = []

    async with opened(tmp_path, keyless) as shop:
        answer = await shop.refund(shop.paid()[0], 5, why={"reason": words})
        assert code_of(answer) is None
        assert words in str(shop.packets())
    assert searched(tmp_path, forms=(words, '"reason_code"')) == []
