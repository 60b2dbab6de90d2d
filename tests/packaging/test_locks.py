"""One set of locked versions: `pyproject.toml`, `uv.lock` and the two files pip reads say the same.

Compared here in plain Python, so that the check needs neither uv nor a network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "comptroller"
LOCKS = {"runtime": ROOT / "requirements/runtime.lock", "dev": ROOT / "requirements/dev.lock"}
RELOCK = "run `make lock` and commit what it changes"

Pins = dict[str, tuple[str, frozenset[str]]]


@cache
def toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


@cache
def locked() -> dict[str, dict[str, Any]]:
    """The packages of `uv.lock` by name. Each is there once: one version for every platform."""
    packages: list[dict[str, Any]] = toml("uv.lock")["package"]
    names = [package["name"] for package in packages]
    assert len(names) == len(set(names)), "a package is locked in two versions"
    return {package["name"]: package for package in packages}


def pins_in(text: str) -> Pins:
    """Name, version and hashes of each requirement in a file that pip reads."""
    pins: Pins = {}
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(re.split(r"\s+--hash", line, maxsplit=1)[0])
        (version,) = requirement.specifier
        assert version.operator == "==", f"{line}: not pinned"
        hashes = frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", line))
        pins[canonicalize_name(requirement.name)] = (version.version, hashes)
    return pins


def pins_locked(names: set[str]) -> Pins:
    """The same, from `uv.lock`."""
    pins: Pins = {}
    for name in names:
        package = locked()[name]
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        pins[name] = (package["version"], frozenset(file["hash"] for file in files))
    return pins


def closure(*starts: list[dict[str, Any]]) -> set[str]:
    """The names of everything the given dependencies need, on any platform."""
    found: set[tuple[str, str]] = set()
    waiting = [dependency for start in starts for dependency in start]
    while waiting:
        dependency = waiting.pop()
        for extra in ("", *dependency.get("extra", [])):
            key = (dependency["name"], extra)
            if key in found:
                continue
            found.add(key)
            package = locked()[dependency["name"]]
            needs = (
                package.get("optional-dependencies", {}).get(extra, [])
                if extra
                else package.get("dependencies", [])
            )
            waiting += needs
    return {name for name, _ in found}


def expected(lock: str) -> Pins:
    project = locked()[PROJECT]
    starts = [project["dependencies"]]
    if lock == "dev":
        starts.append(project["dev-dependencies"]["dev"])
    return pins_locked(closure(*starts))


@pytest.mark.parametrize("lock", LOCKS)
def test_pip_installs_exactly_what_uv_installs(lock: str) -> None:
    assert pins_in(LOCKS[lock].read_text(encoding="utf-8")) == expected(lock), RELOCK


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_version_has_a_hash(lock: str) -> None:
    pins = pins_in(LOCKS[lock].read_text(encoding="utf-8"))
    assert pins
    assert [name for name, (_, hashes) in pins.items() if not hashes] == []


def test_a_changed_version_a_lost_hash_and_a_lost_package_are_noticed() -> None:
    text = LOCKS["runtime"].read_text(encoding="utf-8")
    pins = pins_in(text)
    name, (version, hashes) = next(iter(pins.items()))
    assert pins_in(text.replace(f"{name}=={version}", f"{name}=={version}.1")) != pins
    assert pins_in(text.replace(min(hashes), "")) != pins
    assert pins_in(text.partition("\nanyio==")[0]) != pins


def asked(requirements: list[str]) -> set[tuple[str, str, frozenset[str]]]:
    parsed = [Requirement(requirement) for requirement in requirements]
    return {(canonicalize_name(r.name), str(r.specifier), frozenset(r.extras)) for r in parsed}


def recorded(entries: list[dict[str, Any]]) -> set[tuple[str, str, frozenset[str]]]:
    texts = [f"{e['name']}[{','.join(e.get('extras', []))}]{e.get('specifier', '')}" for e in entries]
    return asked(texts)


def test_the_lock_was_made_from_this_pyproject() -> None:
    project = toml("pyproject.toml")
    metadata = locked()[PROJECT]["metadata"]
    assert asked(project["project"]["dependencies"]) == recorded(metadata["requires-dist"]), RELOCK
    assert asked(project["dependency-groups"]["dev"]) == recorded(metadata["requires-dev"]["dev"]), RELOCK
    assert toml("uv.lock")["requires-python"] == project["project"]["requires-python"], RELOCK
    assert locked()[PROJECT]["version"] == project["project"]["version"], RELOCK


@pytest.mark.skipif(
    shutil.which("uv") is None, reason="uv is not installed; the other tests here compare the same files"
)
def test_uv_finds_its_lock_current() -> None:
    said = subprocess.run(
        ["uv", "lock", "--check", "--offline"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, f"{said.stderr}\n{RELOCK}"
