"""Who else can read what is private here, or change what decides."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from comptroller_server.config.model import Config
from comptroller_server.doctor.lines import Line, Patient, ok, problem, warning

__all__ = ["exposed", "permissions"]


def exposed(config: Config) -> Iterator[tuple[Path, str]]:
    """Files that others can read though they hold what is private, or change though they decide what runs."""
    private = [config.data_dir, config.data_dir / "tokens", *config.store.checkpoint_files]
    if config.store.database is not None:
        private.append(config.store.database)
    for place in private:
        if (mode := _mode(place)) is not None and mode & 0o077:
            yield place, f"can be read by other users (mode {mode:04o}); run `chmod go-rwx {place}`"
    deciding = [*config.files, *(config.base_dir / file.name for file in config.policies)]
    deciding += [
        config.base_dir / s.python.partition(":")[0]
        for s in config.sources.values()
        if s.python is not None and ".py" in s.python
    ]
    for place in deciding:
        if (mode := _mode(place)) is not None and mode & 0o022:
            yield place, f"can be changed by other users (mode {mode:04o}); run `chmod go-w {place}`"


def permissions(patient: Patient) -> Iterator[Line]:
    """Keys, tokens and credentials that are open are not used at all; the rest is told of."""
    worst = list(_refused(patient))
    yield from worst
    found = list(exposed(patient.config)) if patient.config is not None else []
    for place, text in found:
        told, _, do = text.partition("; ")
        yield warning("files", f"{place} {told}", "another account of this machine could use that", do)
    if not worst and not found:
        yield ok("files", f"nobody else can read {patient.data_dir} or change what decides")


def _refused(patient: Patient) -> Iterator[Line]:
    secret = [*_files(patient.data_dir / "tokens"), *_files(patient.data_dir / "secrets")]
    if patient.config is not None:
        secret.append(patient.config.store.keys_file)
    for place in secret:
        mode = _mode(place)
        if mode is not None and mode & 0o077:
            yield problem(
                "files",
                f"{place} is open to other users (mode {mode:04o})",
                "a secret that others can read is not used: the server does not start",
                f"run `chmod 600 {place}`, and make a new one if somebody may have read it",
            )
        elif mode is not None and place.stat().st_uid != os.geteuid():
            yield problem(
                "files",
                f"{place} belongs to another account (uid {place.stat().st_uid})",
                "the server does not start with a secret that is not its own",
                f"run `chown {os.geteuid()} {place}`",
            )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_file())
    except OSError:
        return []


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
