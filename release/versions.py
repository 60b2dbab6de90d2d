"""Whether a tag may be released: `python -m release.versions v1.2.3` exits 1 and says why where it may not."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

__all__ = ["problems"]

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Why `tag` may not be released from the checkout at `root`; empty when it may."""
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    found: list[str] = []
    if tag != f"v{version}":
        found.append(
            f"the tag is {tag}, pyproject.toml says {version}: tag v{version}, or change the version first"
        )
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if re.search(rf"^## \[?{re.escape(version)}\]?\b", changes, re.MULTILINE) is None:
        found.append(f"CHANGELOG.md has no heading `## {version}`: say there what this release changes")
    return found


if __name__ == "__main__":
    said = problems(sys.argv[1])
    print("\n".join(said) or f"release: {sys.argv[1]} may go", file=sys.stderr if said else sys.stdout)
    sys.exit(1 if said else 0)
