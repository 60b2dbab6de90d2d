"""What reads bytes of strangers, fuzzed with its own coverage as the guide; and what `make fuzz` does with a find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from comptroller_server.face import framing
from tests.fuzzing.all_targets import ALL
from tests.fuzzing.guided import Guided
from tests.fuzzing.one import again, guided_run
from tests.fuzzing.target import Target

ROOT = Path(__file__).parents[2]


def fuzzed(name: str, folder: Path, rounds: int) -> Guided:
    target = ALL[name]
    folder.mkdir()
    fuzzer = Guided(target.corpus, *target.modules)
    fuzzer.run(target.prepare(folder), rounds)
    return fuzzer


@pytest.mark.parametrize("name", ALL)
def test_bytes_of_strangers_are_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    first, second = fuzzed(name, tmp_path / "first", 0), fuzzed(name, tmp_path / "second", ALL[name].rounds)
    assert first.arcs < second.arcs  # it was guided to something new


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_many_bytes_of_strangers(tmp_path: Path, name: str) -> None:
    assert fuzzed(name, tmp_path / "many", 20 * ALL[name].rounds).arcs


def test_what_is_found_is_kept_in_a_file_with_how_to_run_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(_: Path) -> object:
        def target(data: bytes) -> None:
            assert data != b"bad", "it is bad"

        return target

    broken = Target("a broken reader", prepare, (b"good", b"bad"), (framing,), 1)  # type: ignore[arg-type]
    assert guided_run(broken, 60, tmp_path) == 1
    (kept,) = tmp_path.glob("a-broken-reader-*")
    said = capsys.readouterr().out
    assert kept.read_bytes() == b"bad"
    assert f"python -m tests.fuzzing 'a broken reader' {kept}" in said
    with pytest.raises(AssertionError, match="it is bad"):
        again(broken, kept)


def test_an_input_that_was_kept_is_run_again_by_name(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"{}")
    command = [sys.executable, "-m", "tests.fuzzing"]
    ended = subprocess.run(
        [*command, "framing", str(kept)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "framing: nothing is wrong with this input\n")
    unknown = subprocess.run(
        [*command, "no-such", str(kept)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert unknown.returncode == 2
    assert "no target" in unknown.stderr
