"""`comptroller policy diff`: what one configuration lets happen that another does not, in words."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import click

from comptroller_audit.redaction import Audience
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_server.commands.config_files import CONFIG_NAME, config_file
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import on_store, quiet_stdout
from comptroller_server.commands.showing import emit, say
from comptroller_server.config.loading import load_config
from comptroller_server.errors import CommandError, ConfigInvalid
from comptroller_server.installation import TENANT, Installation
from comptroller_server.rehearsal.comparing import compare
from comptroller_server.rehearsal.leanings import Direction
from comptroller_server.upkeep.bundles import BundleUnusable, kept_bundle

__all__ = ["active_bundle", "changes_told", "diff", "show_lines"]

ACTIVE = "active"
"""In place of a configuration: the bundle that the store says is in force."""


@click.command()
@click.argument("old")
@click.argument("new", required=False, type=click.Path(path_type=Path))
@options()
@click.pass_context
def diff(ctx: click.Context, old: str, new: Path | None) -> None:
    """What changed from OLD to NEW: tools, rules, limits, gates and classes, and whether each widened or narrowed.

    Both are configuration files, or folders with one; without NEW it is the one in use. OLD may be `active`: the bundle
    that is in force in the store. Exit code 0 when nothing differs, 1 when something does.
    """
    invocation = invocation_of(ctx)
    path = _named(new) if new is not None else config_file(invocation.config)
    if old == ACTIVE:
        _compare_active(invocation, path)
        return
    before, after = (
        Installation(load_config(file, data_dir=invocation.data_dir)) for file in (_named(Path(old)), path)
    )
    if _show_changes(invocation, before, after):
        findings()


def _show_changes(invocation: Invocation, before: Installation, after: Installation) -> bool:
    """Tell what differs; whether anything does."""
    document, lines = changes_told(before, after)
    if invocation.as_json:
        emit(document)
    else:
        show_lines(lines)
    return bool(lines)


def changes_told(before: Installation, after: Installation) -> tuple[JsonObject, list[tuple[Direction, str]]]:
    """What differs, released for a person: as JSON `{same, old, new, changes}`, and as lines with their direction."""
    with quiet_stdout():
        changes = compare(before, after)
        digests = (before.bundle_digest, after.bundle_digest)

    def told(text: str) -> str:
        return after.release.text(before.release.text(text, Audience.PERSON), Audience.PERSON)

    listed: list[Json] = [
        {name: told(str(value)) for name, value in change.as_json().items()} for change in changes
    ]
    document: JsonObject = {"same": not changes, "old": digests[0], "new": digests[1], "changes": listed}
    return document, [(change.direction, told(f"{change.where}: {change.text}")) for change in changes]


def _named(given: Path) -> Path:
    path = given / CONFIG_NAME if given.is_dir() else given
    if not path.is_file():
        raise CommandError(f"there is no configuration at {path}")
    return path


def _compare_active(invocation: Invocation, path: Path) -> None:
    """With what the store keeps of the bundle in force, or where it keeps nothing, by the digests alone."""
    invocation.config = path

    async def read(installation: Installation) -> tuple[str, Installation | None, Installation]:
        with quiet_stdout():
            return (*await active_bundle(installation), installation)

    active, before, after = on_store(invocation, read)
    if before is not None:
        if _show_changes(invocation, before, after):
            findings()
        return
    digest = after.bundle_digest
    if invocation.as_json:
        emit({"same": active == digest, "old": active, "new": digest})
    else:
        say(f"The active bundle is {active[:16] or 'none yet'}, this configuration is {digest[:16]}.")
        say(
            "What is in the active bundle cannot be told here: name its configuration as OLD to hear what changed."
        )
    if active != digest:
        findings()


async def active_bundle(installation: Installation) -> tuple[str, Installation | None]:
    """The digest in force (empty for none), and an installation under it; None where it cannot be had here."""
    head = await installation.store.read(lambda reader: reader.head(TENANT))
    active = head.bundle if head is not None else ""
    if active == installation.bundle_digest:
        return active, installation
    with contextlib.suppress(ConfigInvalid, BundleUnusable):
        return active, await kept_bundle(installation, TENANT, active)
    return active, None


def show_lines(changes: list[tuple[Direction, str]]) -> None:
    for direction in Direction:
        own = [text for each, text in changes if each is direction]
        if own:
            say(direction.value, bold=True)
        for text in own:
            say(f"  {text}")
    counts = Counter(direction for direction, _ in changes)
    told = ", ".join(f"{counts[direction]} {direction.value}" for direction in Direction if counts[direction])
    say(f"{told}." if told else "Nothing differs.")
