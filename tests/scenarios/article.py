"""The article's own configuration running on the desk: its files copied, a key changed, and a service opened on them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from comptroller_audit.ambient import RandomIds
from comptroller_server.app import running
from comptroller_server.config.loading import load_config
from comptroller_server.installation import Ambient, Installation
from comptroller_tools import functions
from comptroller_tools.desk.database import close_all
from tests.scenarios.kit import DESK_CONFIG, Changes, Clock, Faults, Shop, read_once, stocked

__all__ = ["ARTICLE", "article", "placed_article"]

ARTICLE = DESK_CONFIG.parent / "article"


def placed_article(folder: Path, changes: Changes | None = None, desk: Changes | None = None) -> Path:
    """The article's files in `folder`, its own changed by `changes`, the desk's drop-in by `desk`."""
    shutil.copytree(ARTICLE, folder, dirs_exist_ok=True)
    yaml: Any = YAML(typ="safe", pure=True)
    for path, change in (
        (folder / "comptroller.yaml", changes),
        (folder / "comptroller.d" / "desk.yaml", desk),
    ):
        if change is not None:
            tree: dict[str, Any] = yaml.load(path.read_text())
            change(tree)
            with path.open("w") as file:
                yaml.dump(tree, file)
    return folder / "comptroller.yaml"


@contextlib.asynccontextmanager
async def article(
    folder: Path, changes: Changes | None = None, desk: Changes | None = None, *, clock: Clock | None = None
) -> AsyncGenerator[Shop]:
    """A service as the article configures it, on a desk of its own in `folder`."""
    config = load_config(placed_article(folder, changes, desk), data_dir=folder)
    database, clock, faults = stocked(folder), clock or Clock(), Faults()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COMPTROLLER_DESK", str(database))
        environment.setattr(functions, "read_function", read_once)
        installation = Installation(config, Ambient(clock, RandomIds(clock), faults))
        async with running(installation) as service:
            yield Shop(service, database, clock, faults, installation.identity.stdio_subject("triage-bot"))
        close_all()
