"""Every guard of `tests/mutations.py` is noticed when it is gone. Long: it runs the tests of each guard without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
PACKAGES = ("server", "tools", "policy", "audit", "budgets")
TEST_S_MAX = 240
ALL_TESTS_S_MAX = 1_500
FAILED = 1
"""What pytest exits with when tests ran and some failed; a test that is missing or does not load is another number."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of what the tests need, to be broken."""
    copy = tmp_path_factory.mktemp("mutations")
    for folder in (*PACKAGES, "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    yield copy
    shutil.rmtree(copy)


def run(tree: Path, *tests: str, within_s: float = TEST_S_MAX) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy, on the copy."""
    folders = os.pathsep.join(str(tree / package) for package in PACKAGES)
    environment = os.environ | {"PYTHONPATH": folders, "PYTHONDONTWRITEBYTECODE": "1"}
    # One seed: whether a property notices must not be a matter of luck.
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--hypothesis-seed=0"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=within_s, check=False
    )


def test_every_guard_stands_where_its_row_says() -> None:
    for mutation in MUTATIONS:
        source = (ROOT / mutation.file).read_text()
        assert source.count(mutation.text) == 1, f"{mutation.name}: found {source.count(mutation.text)} times"
        assert mutation.text != mutation.replacement
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 25


@pytest.mark.long
def test_the_tests_of_the_guards_pass_while_the_guards_stand(tree: Path) -> None:
    ended = run(tree, *sorted({mutation.test for mutation in MUTATIONS}), within_s=ALL_TESTS_S_MAX)
    assert ended.returncode == 0, ended.stdout[-4_000:]


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_guard_that_is_gone_is_noticed(tree: Path, mutation: Mutation) -> None:
    source = tree / mutation.file
    whole = source.read_text()
    source.write_text(whole.replace(mutation.text, mutation.replacement))
    try:
        ended = run(tree, mutation.test)
    finally:
        source.write_text(whole)
    assert ended.returncode == FAILED, f"pytest ended with {ended.returncode}:\n{ended.stdout[-3_000:]}"
