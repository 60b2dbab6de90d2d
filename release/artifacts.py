"""The registry's `server.json` and the `.mcpb` bundle, made from `pyproject.toml` and a built wheel, so that no version is
written twice.

    python -m release.artifacts dist/comptroller-1.2.3-py3-none-any.whl

writes both beside the wheel. Formats: MCP registry server.json, schema 2025-12-11 (modelcontextprotocol.io/registry); MCP
bundle manifest 0.4 (github.com/modelcontextprotocol/mcpb, MANIFEST.md), server type `uv`: the host brings uv and Python,
the bundle brings the wheel and the locked versions.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

__all__ = ["manifest", "registry_entry", "registry_name", "write"]

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "runtime.lock"
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
MANIFEST_VERSION = "0.4"
ZIPPED = (2020, 1, 1, 0, 0, 0)
"""The time of each file in the bundle: the same wheel makes the same bytes."""
CONFIG_VARIABLE = "COMPTROLLER_CONFIG"


def registry_name() -> str:
    """Our name in the registry, from the mark in README.md by which the registry proves that the package is ours.

    Raises ValueError when README.md has no mark.
    """
    mark = re.search(r"<!-- mcp-name: (\S+) -->", (ROOT / "README.md").read_text(encoding="utf-8"))
    if mark is None:
        raise ValueError(
            "README.md: no mark `<!-- mcp-name: … -->`; the registry needs it to accept the package"
        )
    return mark[1]


def registry_entry(project: dict[str, Any]) -> dict[str, Any]:
    """`server.json` for the table `project` of `pyproject.toml`."""
    package: dict[str, Any] = {
        "registryType": "pypi",
        "identifier": project["name"],
        "version": project["version"],
        "runtimeHint": "uvx",
        "transport": {"type": "stdio"},
        "packageArguments": [
            {"type": "positional", "value": "serve"},
            {
                "type": "named",
                "name": "--client",
                "description": "Which client of `identity.local.clients` this is; not needed where there is one.",
                "isRequired": False,
            },
        ],
        "environmentVariables": [
            {
                "name": CONFIG_VARIABLE,
                "description": "The configuration file, as `comptroller init` writes it.",
                "format": "filepath",
                "isRequired": True,
            }
        ],
    }
    return {
        "$schema": SCHEMA,
        "name": registry_name(),
        "title": "Comptroller",
        "description": "Policy, budgets, approvals, verification and a provable log around every tool call.",
        "version": project["version"],
        "packages": [package],
    }


def manifest(project: dict[str, Any], wheel: str) -> dict[str, Any]:
    """`manifest.json` of a bundle that holds the wheel named `wheel` and the lock of runtime versions."""
    command = {
        "command": "uv",
        "args": [
            "tool",
            "run",
            "--from",
            f"${{__dirname}}/{wheel}",
            "--constraints",
            f"${{__dirname}}/{LOCK.name}",
            "comptroller",
            "serve",
            "--client",
            "${user_config.client}",
        ],
        "env": {CONFIG_VARIABLE: "${user_config.config}"},
    }
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": project["name"],
        "display_name": "Comptroller",
        "version": project["version"],
        "description": project["description"],
        "author": {"name": "The Comptroller authors"},
        "license": project["license"],
        "keywords": project["keywords"],
        "server": {"type": "uv", "entry_point": wheel, "mcp_config": command},
        "tools_generated": True,
        "compatibility": {
            "platforms": ["darwin", "linux"],
            "runtimes": {"python": project["requires-python"]},
        },
        "user_config": {
            "config": {
                "type": "file",
                "title": "Configuration",
                "description": "The comptroller.yaml that `comptroller init` or `comptroller import` wrote.",
                "required": True,
            },
            "client": {
                "type": "string",
                "title": "Name of this client",
                "description": "As the configuration calls it under identity.local.clients.",
                "default": "claude-desktop",
                "required": False,
            },
        },
    }


def write(wheel: Path) -> tuple[Path, Path]:
    """Write both beside `wheel`; returns their paths, `server.json` first.

    Raises ValueError when the wheel is of another version than `pyproject.toml`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if not wheel.name.startswith(f"{project['name']}-{project['version']}-"):
        raise ValueError(f"{wheel.name} is not version {project['version']}; build it again: make package")
    entry = wheel.with_name("server.json")
    entry.write_text(json.dumps(registry_entry(project), indent=2) + "\n", encoding="utf-8")
    bundle = wheel.with_name(f"{project['name']}-{project['version']}.mcpb")
    files = {
        "manifest.json": (json.dumps(manifest(project, wheel.name), indent=2) + "\n").encode(),
        wheel.name: wheel.read_bytes(),
        LOCK.name: LOCK.read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name, ZIPPED), content, zipfile.ZIP_DEFLATED)
    return entry, bundle


if __name__ == "__main__":
    for made in write(Path(sys.argv[1]).resolve()):
        print(f"release: {made.name}")
