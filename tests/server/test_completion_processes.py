"""Completion as it is typed: the printed scripts in the shells that they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from comptroller_server.cli import cli

WAIT_S_MAX = 60.0
TYPED = "comptroller serve --ht"
IN_ZSH = """
zmodload zsh/zpty
zpty typed zsh -f -i
zpty -w typed 'fpath=("$COMPLETIONS" $fpath); autoload -U compinit; compinit -u -D; print rea""dy'
zpty -r typed seen '*ready*'
zpty -w -n typed "$TYPED"$'\\t'
zpty -r typed seen '*--http*'
print -r -- "$seen"
zpty -d typed
"""
IN_FISH = 'source "$COMPLETIONS/_comptroller"; complete -C "$TYPED"'


@pytest.mark.parametrize(("shell", "words"), [("zsh", ["-f", "-c", IN_ZSH]), ("fish", ["-c", IN_FISH])])
def test_what_was_begun_to_be_typed_is_completed(tmp_path: Path, shell: str, words: list[str]) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on this machine")
    script = CliRunner().invoke(cli, ["completion", shell], prog_name="comptroller").stdout
    (tmp_path / "_comptroller").write_text(script)
    commands = Path(sys.executable).parent
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "COMPLETIONS": str(tmp_path),
        "TYPED": TYPED,
    }
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = subprocess.run(
        [program, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S_MAX,
        stdin=subprocess.DEVNULL,
    )
    assert "--http" in done.stdout, (done.stdout, done.stderr)
