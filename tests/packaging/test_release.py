"""What a release ships beside the wheel agrees with it, and is what the registry and MCP clients accept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from comptroller_server.cli import cli
from release.artifacts import ROOT, manifest, registry_entry, registry_name, write
from release.versions import problems
from tests.scenarios.real_upstreams import program_of_node

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WHEEL = f"comptroller-{PROJECT['version']}-py3-none-any.whl"
REGISTRY_TEXT_MAX = 100
"""Characters of a description in the registry (its schema)."""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    file = tmp_path / WHEEL
    file.write_bytes(b"a wheel")
    return file


def test_the_registry_entry_names_the_package_and_its_version_exactly() -> None:
    entry = registry_entry(PROJECT)
    (package,) = entry["packages"]
    assert entry["version"] == package["version"] == PROJECT["version"]
    assert package["identifier"] == PROJECT["name"]
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert 0 < len(entry["description"]) <= REGISTRY_TEXT_MAX


def test_the_packages_readme_carries_the_mark_of_its_registry_entry() -> None:
    assert PROJECT["readme"] == "README.md"
    assert f"<!-- mcp-name: {registry_name()} -->" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_the_entry_and_the_bundle_start_is_a_command_that_exists() -> None:
    serve = cli.get_command(click.Context(cli), "serve")
    assert serve is not None
    options = {option for parameter in serve.params for option in parameter.opts}
    (package,) = registry_entry(PROJECT)["packages"]
    named = {argument["name"] for argument in package["packageArguments"] if argument["type"] == "named"}
    words = manifest(PROJECT, WHEEL)["server"]["mcp_config"]["args"]
    assert named <= options
    assert words[words.index("comptroller") :][:3] == ["comptroller", "serve", "--client"]


def test_the_bundle_holds_the_wheel_its_locked_versions_and_a_manifest_of_the_same_version(
    wheel: Path,
) -> None:
    entry, bundle = write(wheel)
    with zipfile.ZipFile(bundle) as packed:
        said = json.loads(packed.read("manifest.json"))
        assert set(packed.namelist()) == {"manifest.json", WHEEL, "runtime.lock", "LICENSE"}
        assert packed.read(WHEEL) == b"a wheel"
    assert said["version"] == PROJECT["version"] == json.loads(entry.read_text())["version"]
    for file in (WHEEL, "runtime.lock"):
        assert f"${{__dirname}}/{file}" in said["server"]["mcp_config"]["args"]


def test_the_same_wheel_makes_the_same_bundle(wheel: Path) -> None:
    first = write(wheel)[1].read_bytes()
    assert write(wheel)[1].read_bytes() == first


def test_a_wheel_of_another_version_makes_nothing(tmp_path: Path) -> None:
    stale = tmp_path / "comptroller-0.0.9-py3-none-any.whl"
    stale.write_bytes(b"old")
    with pytest.raises(ValueError, match=re.escape("is not version")):
        write(stale)
    assert list(tmp_path.iterdir()) == [stale]


def test_the_bundlers_own_program_accepts_the_manifest(tmp_path: Path) -> None:
    mcpb = program_of_node("mcpb")
    file = tmp_path / "manifest.json"
    said = manifest(PROJECT, WHEEL)
    file.write_text(json.dumps(said))
    assert subprocess.run([mcpb, "validate", str(file)], capture_output=True, check=False).returncode == 0
    file.write_text(json.dumps({**said, "server": {**said["server"], "type": "snake"}}))
    assert subprocess.run([mcpb, "validate", str(file)], capture_output=True, check=False).returncode != 0


def test_the_image_is_built_from_the_lock_and_the_wheel_as_an_ordinary_user() -> None:
    lines = (ROOT / "release" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 10001" in lines
    sent = (ROOT / "release" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert sent == ["*", "!dist/*.whl", "!requirements/runtime.lock"]


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint is installed on Linux only")
def test_the_image_passes_the_linter_of_dockerfiles() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter is not None, "hadolint is missing from .venv; run: make venv"
    said = subprocess.run(
        [linter, str(ROOT / "release" / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (0, "")


def test_a_tag_is_released_when_it_is_the_version_and_the_changelog_tells_of_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-12-01\n")
    assert problems("v1.2.3", tmp_path) == []
    assert "the tag is v1.2.4, pyproject.toml says 1.2.3" in problems("v1.2.4", tmp_path)[0]
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.30]\n")
    assert "CHANGELOG.md has no heading" in problems("v1.2.3", tmp_path)[0]


@pytest.mark.parametrize(
    "file", [".pre-commit-config.yaml", *(f".github/ISSUE_TEMPLATE/{name}.yml" for name in ("bug", "idea"))]
)
def test_what_reviewers_and_reporters_are_given_is_well_formed(file: str) -> None:
    read: dict[str, Any] = YAML(typ="safe").load(ROOT / file)  # pyright: ignore[reportUnknownMemberType] -- ruamel types nothing
    assert read.get("repos") or {"name", "description", "body"} <= read.keys()
