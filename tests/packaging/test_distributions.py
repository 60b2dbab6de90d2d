"""The wheel holds the five packages and nothing else; the sdist holds what is needed to build and test again."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

import comptroller_server

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("server", "tools", "policy", "audit", "budgets")
BUILD_S_MAX = 60
LEFT_BY_PYTHON = re.compile(r"__pycache__|\.pyc$")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from this checkout with the locked backend."""
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--sdist",
        "--outdir",
        str(out),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> zipfile.ZipFile:
    (path,) = distributions.glob("*.whl")
    return zipfile.ZipFile(path)


def packaged(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def in_the_tree() -> set[str]:
    """Every file of the five packages, as its path in a wheel."""
    return {
        path.relative_to(ROOT / folder).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder / f"comptroller_{folder}").rglob("*")
        if path.is_file() and not LEFT_BY_PYTHON.search(str(path))
    }


def test_the_wheel_holds_exactly_the_five_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in packaged(wheel)}
    assert tops == {f"comptroller_{folder}" for folder in FOLDERS}


def test_the_wheel_leaves_no_file_of_a_package_out(wheel: zipfile.ZipFile) -> None:
    """Modules, `py.typed`, migrations and JSON Schemas alike: what works here works installed."""
    assert packaged(wheel) == in_the_tree()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_says_that_its_packages_are_typed(wheel: zipfile.ZipFile, folder: str) -> None:
    assert f"comptroller_{folder}/py.typed" in packaged(wheel)


def test_the_wheel_names_its_licence_its_python_and_its_command(wheel: zipfile.ZipFile) -> None:
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"comptroller": "comptroller_server.cli:main"}


def test_every_version_is_the_same_one(wheel: zipfile.ZipFile) -> None:
    version = pyproject()["project"]["version"]
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert comptroller_server.__version__ == version
    assert metadata["Version"] == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert headings[:1] == ["Unreleased"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", heading) for heading in headings[1:])
    assert headings[1:2] in ([], [version]), "the newest release in CHANGELOG.md is not the version here"


def test_the_sdist_can_be_built_and_tested_again(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        name for name in names if LEFT_BY_PYTHON.search(name) or name.startswith((".venv", ".git/"))
    } == set()
    needed = {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "Makefile", "uv.lock"}
    needed |= {"requirements/dev.lock", "requirements/runtime.lock", "tests/conftest.py", ".ci/run"}
    sources = {f"{name.split('/')[0].removeprefix('comptroller_')}/{name}" for name in in_the_tree()}
    assert (needed | sources) - names == set()
