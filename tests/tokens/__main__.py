"""`python -m tests.tokens [--write]`: how many tokens the list of tools and every refusal cost (needs Node and npm).

The tokenizer is npm's `gpt-tokenizer` with the vocabulary `o200k_base`, locked and installed below `build/`. Refusals are
those that the demo brings about.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.scenarios.played_demo import play
from tests.tokens.lists import list_parts
from tests.tokens.page import PAGE, Counted, tables, with_tables

_ROOT = Path(__file__).resolve().parents[2]
_LOCKED = _ROOT / "requirements" / "tokenizer-npm"
_PLACE = _ROOT / "build" / "tokenizer"
_COUNT = """
const {encode} = require("gpt-tokenizer/encoding/o200k_base");
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map(text => encode(text).length)));
"""


def main() -> int:
    """Print the tables, or put them into the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.tokens", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        parts = asyncio.run(list_parts(Path(place)))
        refusals = play(Path(place) / "demo", 1, ["refusals"]).summary["refusals"]
    texts = {code: refusals[code]["text"] for code in sorted(refusals)}
    counts = _tokens([part.text for part in parts] + list(texts.values()))
    lists = [(part, Counted(len(part.text), tokens)) for part, tokens in zip(parts, counts, strict=False)]
    told = {
        code: Counted(len(text), tokens)
        for (code, text), tokens in zip(texts.items(), counts[len(parts) :], strict=True)
    }
    new = tables(lists, told)
    if options.write:
        PAGE.write_text(with_tables(PAGE.read_text(), new))
    else:
        print(new)
    print(f"median refusal: {median(one.tokens for one in told.values()):.0f} tokens", file=sys.stderr)
    return 0


def _tokens(texts: Sequence[str]) -> list[int]:
    if not (_PLACE / "node_modules").exists():
        _PLACE.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_LOCKED / name, _PLACE)
        quiet = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts")
        subprocess.run(["npm", "ci", *quiet, "--prefix", str(_PLACE)], check=True, timeout=300)
    counting = ["node", "-e", _COUNT]
    done = subprocess.run(
        counting, input=json.dumps(texts), cwd=_PLACE, capture_output=True, text=True, check=True, timeout=60
    )
    return [int(one) for one in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(main())
