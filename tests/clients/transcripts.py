"""What each client was asked and what it showed, one page for a client and a transport, in `build/transcripts`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "written"]

FOLDER = Path(__file__).parents[2] / "build" / "transcripts"


def written(name: str, transport: str, seen: list[dict[str, Any]], asked: list[dict[str, Any]]) -> Path:
    """Write the page of one client; its path."""
    listed, *answers = seen
    lines = [f"# {name} over {transport}", "", "Tools: " + ", ".join(listed["tools"]), ""]
    for ask, answer in zip(asked, answers, strict=True):
        failed = {None: "the client does not say whether it failed", True: "failed", False: "done"}
        lines += [f"## `{ask['call']}`: {failed[answer['failed']]}", ""]
        lines += ["```json", json.dumps(ask["arguments"], indent=2), "```", ""]
        lines += ["````text", answer["text"], "````", ""]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name.replace(' ', '_')}-{transport}.md"
    path.write_text("\n".join(lines))
    return path
