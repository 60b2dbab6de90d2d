"""The demo is real: other records by seed, other words by config, and every call it names is on record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from comptroller_audit.vocabulary import Code, RefusalClass
from comptroller_server.cli import cli
from comptroller_server.demo.play import CHAPTERS
from tests.scenarios.played_demo import Played, changed_desk

NAMES = [chapter.name for chapter in CHAPTERS]
REFUSALS = "refusals"
"""Played by itself in test_every_refusal.py."""
A_CALL = re.compile(r"^    call ([0-9a-f-]{36})$", re.MULTILINE)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("demo")
    changed_desk(folder)
    return Played(folder, 11, [name for name in NAMES if name != REFUSALS])


def test_every_check_of_the_demo_holds(played: Played) -> None:
    assert "✗" not in played.text
    assert played.text.count("✓") >= 45


def test_every_chapter_says_where_it_stands(played: Played) -> None:
    headings = re.findall(r"^\[(\d+)/(\d+), \d+ s\] (.+)$", played.text, re.MULTILINE)
    titles = [chapter.title for chapter in CHAPTERS if chapter.name != REFUSALS]
    assert headings == [(str(number), str(len(titles)), title) for number, title in enumerate(titles, 1)]


def test_a_changed_limit_changes_what_the_demo_prints(played: Played) -> None:
    assert "amount_usd may be at most 37." in played.words
    assert "at most 50" not in played.words


def test_a_renamed_policy_is_named_in_the_refusal(played: Played) -> None:
    assert "(rule only-what-is-left)" in played.words
    assert "refund-within-paid" not in played.words


def test_every_call_the_demo_names_is_found_by_why(played: Played) -> None:
    named = set(A_CALL.findall(played.text))
    assert len(named) >= 40
    for call in sorted(named):
        found = played.why(call)
        assert found is not None, call
        assert found["call"] == call


def test_no_address_of_a_customer_is_told_where_addresses_are_withheld(played: Played) -> None:
    private = played.text.partition("Personal data behind tokens")[2].partition("\n[")[0]
    assert "⟦email:1-" in private
    assert "@example." not in private


def test_the_four_buckets_are_counted_from_the_record(played: Played) -> None:
    proof = played.text.partition("The proof")[2]
    buckets = dict(re.findall(r"^  ([a-z_]+) +(\d+)   ", proof, re.MULTILINE))
    assert list(buckets)[:4] == [
        RefusalClass.TOOL_MISMATCH,
        RefusalClass.STALE_CONTEXT,
        RefusalClass.POLICY_VIOLATION,
        RefusalClass.SILENT_WRONG,
    ]
    assert all(int(count) > 0 for count in buckets.values())


def test_the_chapters_are_listed_and_an_unknown_one_is_refused() -> None:
    listed = CliRunner().invoke(cli, ["demo", "--list"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == NAMES
    refused = CliRunner().invoke(cli, ["demo", "--only", "nothing"])
    assert refused.exit_code == 2
    assert "no chapter 'nothing'" in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 7])
def test_the_whole_demo_works_other_records_and_shows_every_code(tmp_path: Path, seed: int) -> None:
    told = Played(tmp_path, seed, as_json=True).summary
    assert told["ok"] and told["failures"] == []
    assert set(told["refusals"]) == {code.value for code in Code}
    assert len(set(told["calls"].values())) >= 90
