"""What every client's program does: list the tools, then make the calls it is told to, one line of JSON each way.

    python NAME_client.py http|stdio

The test writes `{"call": TOOL, "arguments": {...}}`, or `{}` to end. The program prints the names of the tools, then for
each call the text that a model would be given, and whether the client says that it failed (null: it does not tell).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

HTTP = sys.argv[1] == "http"
URL = os.environ.get("COMPTROLLER_URL", "")
HEADERS = {"Authorization": f"Bearer {os.environ.get('COMPTROLLER_TOKEN', '')}"}
COMMAND, *ARGUMENTS = json.loads(os.environ["COMPTROLLER_STDIO"])
ENVIRONMENT = dict(os.environ)

Called = Callable[[str, dict[str, Any]], Awaitable[tuple[str, bool | None]]]


async def play(tools: list[str], call: Called) -> None:
    print(json.dumps({"tools": tools}), flush=True)
    while line := json.loads(sys.stdin.readline() or "{}"):
        text, failed = await call(line["call"], line["arguments"])
        print(json.dumps({"text": text, "failed": failed}), flush=True)


def text_of(content: list[Any]) -> str:
    return "\n".join(part.text for part in content if part.type == "text")
