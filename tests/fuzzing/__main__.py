"""`make fuzz`: every target for `FUZZ_SECONDS`, each in a process of its own. Exit code 1 with a find.

python -m tests.fuzzing [TARGET…]     fuzz all targets, or these
python -m tests.fuzzing TARGET FILE   run one kept input again
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).parents[2]
FINDS = ROOT / "build" / "fuzz"
LOCKED = ROOT / "requirements" / "fuzz.txt"
INSTALL_S_MAX = 120
START_S_MAX = 120
"""How long a process may take beside its fuzzing: to load, and for one slow input."""


def main(arguments: Sequence[str]) -> int:
    from tests.fuzzing.all_targets import ALL

    if len(arguments) == 2 and arguments[1] not in ALL:
        return _again(*arguments)
    if unknown := [name for name in arguments if name not in ALL]:
        print(f"fuzz: no target {unknown[0]!r}; there are: {', '.join(ALL)}", file=sys.stderr)
        return 2
    seconds = int(os.environ.get("FUZZ_SECONDS", "60"))
    place = _installed()
    if not place:
        print("fuzz: SKIPPED Atheris, which could not be installed here (needs PyPI, Linux on x86-64, Python 3.11 to 3.13): the suite's own slower engine fuzzes instead")  # fmt: skip
    FINDS.mkdir(parents=True, exist_ok=True)
    names = list(arguments) or list(ALL)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        failed = [
            name
            for name, ok in zip(names, pool.map(partial(_fuzz, seconds, place), names), strict=True)
            if not ok
        ]
    print(
        f"fuzz: {len(names)} targets, {seconds} s each: "
        + (f"FOUND something in {', '.join(failed)}" if failed else "nothing found")
    )
    return 1 if failed else 0


def _again(name: str, file: str) -> int:
    from tests.fuzzing.all_targets import ALL
    from tests.fuzzing.one import again

    if name not in ALL:
        print(f"fuzz: no target {name!r}; there are: {', '.join(ALL)}", file=sys.stderr)
        return 2
    again(ALL[name], Path(file))
    print(f"{name}: nothing is wrong with this input")
    return 0


def _fuzz(seconds: int, place: str, name: str) -> bool:
    from tests.fuzzing.one import again_command

    command = [sys.executable, "-m", "tests.fuzzing.one", name, str(seconds), str(FINDS), place]
    try:
        ended = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=seconds + START_S_MAX, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(f"fuzz: {name}: did not end within {seconds + START_S_MAX} s", flush=True)
        return False
    lines = [
        line for line in ended.stdout.splitlines() if "Instrumenting" not in line and not line.startswith("#")
    ]
    tries = [line for line in lines if line.startswith("Done ")]
    if ended.returncode:
        print("\n".join(lines[-60:]), flush=True)
        for line in lines:
            if (raw := line.partition("Test unit written to ")[2]) and "-timeout-" in raw:
                print(f"FOUND in {name}: too slow: {raw}\nrun it again: {again_command(name, Path(raw))}")
    print(
        f"fuzz: {name}: {'ok' if not ended.returncode else f'exit {ended.returncode}'} {tries[-1] if tries else ''}",
        flush=True,
    )
    return ended.returncode == 0


def _installed() -> str:
    """Where Atheris is, installed on first use in a place of its own; empty where it cannot be."""
    version = hashlib.sha256(LOCKED.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = user_cache_path("comptroller-tests", appauthor=False) / f"fuzz-{version}"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "install",
        ]
        try:
            subprocess.run(
                [sys.executable, "-m", "venv", str(folder)],
                check=True,
                capture_output=True,
                timeout=INSTALL_S_MAX,
            )
            wanted = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(LOCKED)]
            subprocess.run([*pip, *wanted], check=True, capture_output=True, timeout=INSTALL_S_MAX)
        except (OSError, subprocess.SubprocessError):
            return ""
        (folder / "complete").touch()
    return packages


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
