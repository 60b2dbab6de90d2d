"""Which configuration a command means. Imports little: `serve` reads it before it loads the rest."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_config_path

from comptroller_server.errors import CommandError

__all__ = ["CONFIG_NAME", "CONFIG_VARIABLE", "config_file"]

CONFIG_NAME = "comptroller.yaml"
CONFIG_VARIABLE = "COMPTROLLER_CONFIG"


def config_file(given: Path | None) -> Path:
    """The configuration that is meant. Raises `CommandError` naming every place that was looked at."""
    named = given or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            if (named / CONFIG_NAME).is_file():
                raise CommandError(
                    f"{named} is a folder; name the file in it: --config {named / CONFIG_NAME}"
                )
            raise CommandError(
                f"there is no configuration at {named}; name another with --config, or make one by `comptroller init`"
            )
        return named
    places = [Path(CONFIG_NAME), user_config_path("comptroller", appauthor=False) / CONFIG_NAME]
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(str(place.absolute()) for place in places)
    raise CommandError(
        f"no configuration was found (looked at {looked}); name one with --config, or make one by "
        "`comptroller init`"
    )
