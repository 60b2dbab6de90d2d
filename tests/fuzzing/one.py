"""One target under an engine, in a process of its own: Atheris where it is installed, else the suite's own."""

from __future__ import annotations

import hashlib
import importlib
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tests.fuzzing.target import Target

__all__ = ["again", "again_command", "guided_run", "main"]

INPUT_BYTES_MAX = 4_096
INPUT_S_MAX = 30
"""How long one input may take: what takes longer is a find too."""
PACKAGES = [f"comptroller_{name}" for name in ("audit", "policy", "tools", "server")]


def again(target: Target, file: Path) -> None:
    """Run one kept input again. Raises what it raises."""
    with tempfile.TemporaryDirectory() as folder:
        target.prepare(Path(folder))(file.read_bytes())


def guided_run(target: Target, seconds: float, finds: Path) -> int:
    """Fuzz with the suite's own engine. Returns 1 with a find, which was kept, else 0."""
    from tests.fuzzing.guided import Guided

    with tempfile.TemporaryDirectory() as folder:
        try:
            Guided(target.corpus, *target.modules).run_for(_keeping(target, Path(folder), finds), seconds)
        except Exception:  # noqa: BLE001  # whatever it is, it is the find
            return 1
    return 0


def _keeping(target: Target, folder: Path, finds: Path) -> Callable[[bytes], None]:
    run = target.prepare(folder)

    def kept(data: bytes) -> None:
        try:
            run(data)
        except Exception:
            file = finds / f"{target.name.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:12]}"
            file.write_bytes(data)
            print(traceback.format_exc())
            print(
                f"FOUND in {target.name}: {file}\nrun it again: {again_command(target.name, file)}",
                flush=True,
            )
            raise

    return kept


def again_command(name: str, file: Path) -> str:
    """What a person types to run a kept input again."""
    return f".venv/bin/python -m tests.fuzzing {shlex.quote(name)} {shlex.quote(str(file))}"


def _atheris_run(name: str, seconds: int, finds: Path, corpus: Path) -> None:
    """Fuzz with Atheris, which ends the process: 0, or 77 with a find, or 70 where an input took too long."""
    engine: Any = importlib.import_module("atheris")
    with engine.instrument_imports(include=PACKAGES):
        target = _loaded(name)
    for at, data in enumerate(target.corpus):
        (corpus / f"begin-{at}").write_bytes(data)
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_S_MAX}"]
        arguments += [
            f"-artifact_prefix={finds}/{name.replace(' ', '-')}-raw-",
            "-rss_limit_mb=3000",
            f"-seed={int(os.environ.get('FUZZ_SEED', '0'))}",
            str(corpus),
        ]
        engine.Setup([sys.argv[0], *arguments], _keeping(target, Path(folder), finds))
        engine.Fuzz()


def _loaded(name: str) -> Target:
    """The target, with no more modules than it needs: each one that is instrumented takes time."""
    for module in ("reading", "log", "store", "outside"):
        for target in importlib.import_module(f"tests.fuzzing.{module}_targets").TARGETS:
            if target.name == name:
                return cast("Target", target)
    raise ValueError(f"there is no target {name!r}; `tests.fuzzing.all_targets` lists them")


def main(name: str, seconds: int, finds: Path, place: str) -> int:
    """`place` is where Atheris is installed, or empty."""
    if place:
        sys.path.append(place)
        corpus = finds / "corpus" / name.replace(" ", "-")
        corpus.mkdir(parents=True, exist_ok=True)
        _atheris_run(name, seconds, finds, corpus)
        return 0
    from tests.fuzzing.all_targets import ALL

    return guided_run(ALL[name], seconds, finds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
