"""The demo is real: other records by seed, other words by config, and every call it names is on record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from comptroller_audit.vocabulary import RefusalClass
from comptroller_server.cli import cli
from comptroller_server.demo.play import CHAPTERS
from tests.scenarios.played_demo import Played, play, shared_demo

NAMES = [chapter.name for chapter in CHAPTERS]
A_CALL = re.compile(r"^    call ([0-9a-f-]{36})$", re.MULTILINE)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return shared_demo(tmp_path_factory)


@pytest.mark.long
def test_every_check_of_the_demo_holds(played: Played) -> None:
    assert "✗" not in played.text
    assert "\x1b" not in played.text  # colours are for terminals
    assert played.text.count("✓") >= 50


@pytest.mark.long
def test_every_chapter_says_where_it_stands(played: Played) -> None:
    headings = re.findall(r"^\[(\d+)/(\d+), \d+ s\] (.+)$", played.text, re.MULTILINE)
    assert headings == [
        (str(number), str(len(CHAPTERS)), chapter.title) for number, chapter in enumerate(CHAPTERS, 1)
    ]


@pytest.mark.long
def test_a_changed_limit_changes_what_the_demo_prints(played: Played) -> None:
    assert "amount_usd may be at most 37." in played.words
    assert "at most 50" not in played.words


@pytest.mark.long
def test_a_renamed_policy_is_named_in_the_refusal(played: Played) -> None:
    assert "(rule only-what-is-left)" in played.words
    assert "refund-within-paid" not in played.words


@pytest.mark.long
def test_every_call_the_demo_names_is_found_by_why(played: Played) -> None:
    named = set(A_CALL.findall(played.text))
    assert len(named) >= 40
    for call in sorted(named):
        found = played.why(call)
        assert found is not None, call
        assert found["call"] == call


@pytest.mark.long
def test_no_address_of_a_customer_is_told_where_addresses_are_withheld(played: Played) -> None:
    private = played.text.partition("Personal data behind tokens")[2].partition("\n[")[0]
    assert "⟦email:1-" in private
    assert "@example." not in private


@pytest.mark.long
def test_the_four_buckets_are_counted_from_the_record(played: Played) -> None:
    proof = played.text.partition("The proof")[2]
    buckets = dict(re.findall(r"^  ([a-z_]+) +(\d+)   [a-z]", proof, re.MULTILINE))
    assert list(buckets) == [
        RefusalClass.TOOL_MISMATCH,
        RefusalClass.STALE_CONTEXT,
        RefusalClass.POLICY_VIOLATION,
        RefusalClass.SILENT_WRONG,
    ]
    assert all(int(count) > 0 for count in buckets.values())


@pytest.mark.long
def test_the_report_is_left_as_a_page(played: Played) -> None:
    page = played.folder / "report.html"
    assert str(page) in played.text
    assert page.read_text().startswith("<!doctype html>")


def test_the_chapters_are_listed_and_an_unknown_one_is_refused() -> None:
    listed = CliRunner().invoke(cli, ["demo", "--list"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == NAMES
    refused = CliRunner().invoke(cli, ["demo", "--only", "nothing"])
    assert refused.exit_code == 2
    assert "no chapter 'nothing'" in refused.stderr


def test_a_folder_that_holds_a_store_is_not_played_in_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused = CliRunner().invoke(cli, ["demo", "--keep", str(tmp_path)])
    assert refused.exit_code == 2
    assert "give another folder" in " ".join(refused.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 7])
def test_the_whole_demo_works_other_records(tmp_path: Path, seed: int) -> None:
    assert play(tmp_path, seed).summary["ok"]


@pytest.mark.long
@pytest.mark.parametrize("chapter", NAMES)
def test_a_chapter_can_be_played_alone(tmp_path: Path, chapter: str) -> None:
    told = play(tmp_path, 3, [chapter]).summary
    assert told["ok"] and told["checks"]
