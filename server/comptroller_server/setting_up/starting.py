"""The command that starts this program again, for a client's file that is read next year too."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

from comptroller_server import __version__

__all__ = ["cache_around", "serve_words", "start_words"]

PACKAGE = "comptroller"
CACHE_TAG = "CACHEDIR.TAG"
"""What marks a folder whose contents may be deleted at any time (bford.info/cachedir)."""


def start_words() -> list[str]:
    """The command, absolute: the console script beside this Python, or on `PATH`.

    What `uvx` and `pipx run` start lies in a cache, which is tidied sooner or later: there it is the runner's command.
    """
    if (again := _by_runner(Path(sys.prefix))) is not None:
        return again
    beside = Path(sys.executable).with_name(PACKAGE)
    if beside.is_file() and os.access(beside, os.X_OK):
        return [str(beside)]
    found = shutil.which(PACKAGE)
    return [str(Path(found).absolute())] if found else [sys.executable, "-m", "comptroller_server.cli"]


def serve_words(client: str, config: Path, data_dir: Path | None) -> list[str]:
    """The whole command for `client` on stdio. `data_dir` is None for the user's own."""
    words = [*start_words(), "serve", "--client", client, "--config", str(config.absolute())]
    return [*words, "--data-dir", str(data_dir.absolute())] if data_dir is not None else words


def cache_around(prefix: Path) -> Path | None:
    """The cache that the environment at `prefix` lies in, if it lies in one."""
    # An environment of uv has the tag itself, wherever it lies.
    return next((folder for folder in prefix.parents if (folder / CACHE_TAG).is_file()), None)


def _by_runner(prefix: Path) -> list[str] | None:
    """The command of whoever made the environment at `prefix` in a cache; None where it is no such environment."""
    cache = cache_around(prefix)
    if cache is None:
        return None
    if cache.name == "pipx":
        runner = shutil.which("pipx")
        return [str(Path(runner).absolute()), "run", "--spec", _origin(), PACKAGE] if runner else None
    runner = os.environ.get("UV") or shutil.which("uv")
    return [str(Path(runner).absolute()), "tool", "run", "--from", _origin(), PACKAGE] if runner else None


def _origin() -> str:
    """Where this program was installed from, as installers take it (direct_url.json, PEP 610); else its version."""
    released = f"{PACKAGE}=={__version__}"
    try:
        written = distribution(PACKAGE).read_text("direct_url.json")
    except PackageNotFoundError:
        return released
    if written is None:
        return released
    origin = json.loads(written)
    url = str(origin["url"])
    if (vcs := origin.get("vcs_info")) is not None:
        return f"{PACKAGE} @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    return unquote(urlsplit(url).path) if url.startswith("file:") else url
