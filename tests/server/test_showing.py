"""Tables on terminals of any width: nothing that a person copies is broken apart."""

from __future__ import annotations

import sys

import pytest

from comptroller_server.commands.showing import table

HEADERS = ("AT", "CALL", "STATE", "TOOL", "CODE")
CALLS = ("01a20895-e9ef-7dd7-85c6-32aaaaaaaaaa", "01a20895-e9ef-7dd7-85c6-32aaaaaaaaab")
ROWS = (
    ("2026-11-24 12:00:01Z", CALLS[0], "done", "lookup_invoice", ""),
    ("2026-11-24 12:00:02Z", CALLS[1], "denied", "issue_refund", "policy_denied"),
)


def shown(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table(HEADERS, ROWS)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [20, 40, 60, 80, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 100, 200])
def test_an_id_stands_whole_on_a_terminal_of_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = shown(width, monkeypatch, capsys)
    for row in ROWS:
        for cell in row:
            for word in cell.split():
                assert word in said


def test_a_narrow_terminal_gets_one_record_below_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shown(40, monkeypatch, capsys).split("\n\n")
    assert first.splitlines() == [
        "AT     2026-11-24 12:00:01Z",
        f"CALL   {CALLS[0]}",
        "STATE  done",
        "TOOL   lookup_invoice",
    ]
    assert second.splitlines()[-1] == "CODE   policy_denied"


def test_a_wide_terminal_gets_a_row_for_each_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(120, monkeypatch, capsys).splitlines()
    assert [call for call in CALLS for line in lines if call in line and "12:00:0" in line] == list(CALLS)
