"""The bundles of a store: what stands behind the digest in force, and this process's installation under it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import structlog

from comptroller_audit.query import entries
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Committed, Unit
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_policy.activations import ActivateBundle, Activation, How, activations
from comptroller_server.call.watch import Watch
from comptroller_server.config.loading import config_of, kept_of
from comptroller_server.config.model import Config
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.upkeep.following import Following

__all__ = [
    "BundleUnusable",
    "activation_of",
    "content_of",
    "installation_in_force",
    "kept_bundle",
    "needs_restart",
    "newest_activation",
    "overruled",
    "put_in_force",
]

SHOWN_CHARS = 16
"""Of a digest, where people read it."""
_FIXED = ("identity", "http", "limits", "logging", "sources", "pins", "safety", "streams", "environment")
"""What a process has built its faces, sources and logs of, and cannot have otherwise without a new start."""
_log = structlog.stdlib.get_logger()


class BundleUnusable(CommandError):
    """A bundle cannot be taken over by this process; the text says why and what to do."""


def activation_of(
    installation: Installation,
    how: How = How.SERVED,
    by: str = "",
    reason: str = "",
    expected: str | None = None,
    back: str | None = None,
) -> ActivateBundle:
    """The part that puts an installation's bundle in force, with what it is made of. Raises `ConfigInvalid`.

    Texts in which a secret stands are not kept: the bundle serves, and nobody can go back to it.
    """
    content: JsonObject | None = kept_of(installation.config)
    searched = installation.release.release(content, Audience.RECORD)
    if searched.withheld:
        content = None
    digest, policy = installation.bundle_digest, installation.policy.text()
    return ActivateBundle(digest, policy, content, how, by, reason, expected, back)


def content_of(reader: Reader, installation: Installation, tenant: str, activation: Activation) -> JsonObject:
    """What a bundle is made of, from the sealed record of its activation. Raises `BundleUnusable`, `KeyRingError`."""
    shown = activation.bundle[:SHOWN_CHARS]
    found = entries(reader, installation.ring, tenant, [activation.index])
    packet = found[0].packet if found and found[0].type is RecordType.BUNDLE_ACTIVATED else None
    # The row is anybody's who writes the database; the record was sealed with the store's keys.
    if packet is None or (packet.get("bundle"), packet.get("how")) != (activation.bundle, activation.how):
        raise BundleUnusable(
            f"the record that put bundle {shown} in force is not in the log; run `comptroller audit verify`"
        )
    content = packet.get("content")
    if not isinstance(content, dict):
        raise BundleUnusable(
            f"bundle {shown} was not kept, for a secret stands in its texts; write it as `secret://…` and activate again"
        )
    return content


def _config_in(installation: Installation, content: JsonObject, digest: str) -> Config:
    shown = f"bundle {digest[:SHOWN_CHARS]}"
    return config_of(cast("dict[str, Any]", content), shown, installation.config)


def _under(installation: Installation, config: Config, digest: str) -> Installation:
    """`installation` under the configuration of a kept bundle. Raises `ConfigInvalid`, `BundleUnusable`."""
    candidate = installation.with_config(config)
    candidate.check()
    if candidate.bundle_digest != digest:
        raise BundleUnusable(
            f"bundle {digest[:SHOWN_CHARS]} is another thing here: the definitions of the tools or the code of the checks "
            "differ from those it was activated with; bring them to this machine and restart"
        )
    return candidate


async def newest_activation(installation: Installation, tenant: str) -> int:
    """Where the newest record stands that put this installation's bundle in force; -1 without one."""
    found = await installation.store.read(lambda reader: activations(reader, tenant))
    return next((one.index for one in found if one.bundle == installation.bundle_digest), -1)


async def overruled(installation: Installation, tenant: str) -> Activation | None:
    """The activation by a person that a start with this configuration would undo, or None.

    A configuration that was in force before a person put another one there does not come back by a restart; one that is
    new does what it always did.
    """
    found = await installation.store.read(lambda reader: activations(reader, tenant))
    digest = installation.bundle_digest
    if not found or found[0].how is How.SERVED or found[0].bundle == digest:
        return None
    return found[0] if any(one.bundle == digest for one in found) else None


async def kept_bundle(installation: Installation, tenant: str, bundle: str) -> Installation:
    """`installation` under a bundle that was in force once, for a command. Raises `ConfigInvalid`, `BundleUnusable`."""

    def read(reader: Reader) -> JsonObject:
        own = [one for one in activations(reader, tenant) if one.bundle == bundle]
        if not own:
            raise BundleUnusable(
                f"no record of a bundle {bundle[:SHOWN_CHARS]}; see `comptroller bundle list`"
            )
        kept = next((one for one in own if one.kept), own[0])
        return content_of(reader, installation, tenant, kept)

    content = await installation.store.read(read)
    return _under(installation, _config_in(installation, content, bundle), bundle)


async def installation_in_force(
    installation: Installation, tenant: str, bundle: str, known: int
) -> tuple[Installation, int]:
    """A serving installation under the bundle that a person put in force, and where the record of that stands.

    `known` is the activation this process obeyed until now: whoever turns the store's rows back cannot turn it back with
    them. Raises `ComptrollerError` where this process cannot take it over.
    """

    def read(reader: Reader) -> tuple[JsonObject, int]:
        newest = activations(reader, tenant, 1)
        if not newest or newest[0].bundle != bundle or newest[0].index <= known:
            raise BundleUnusable(
                f"no record says who put bundle {bundle[:SHOWN_CHARS]} in force; run `comptroller audit verify`"
            )
        if newest[0].how is How.SERVED:
            raise BundleUnusable(
                "a server that started put it in force, and only a person's word moves another server: restart this one "
                "with that configuration, or run `comptroller bundle rollback`"
            )
        return content_of(reader, installation, tenant, newest[0]), newest[0].index

    content, index = await installation.store.read(read)

    def load() -> Installation:
        config = _config_in(installation, content, bundle)
        if fixed := needs_restart(installation.config, config):  # before any code of new sources is loaded
            raise BundleUnusable(f"{', '.join(f'`{name}`' for name in fixed)} changed; restart")
        candidate = _under(installation, config, bundle)
        if candidate.checks.code != installation.checks.code:
            raise BundleUnusable("the code of the checks is another; restart")
        return candidate

    return (await asyncio.to_thread(load) if installation.ambient.threaded else load()), index


def needs_restart(old: Config, new: Config) -> list[str]:
    """The sections that differ and that a running server cannot take over."""
    before, after = old.digest_material(), new.digest_material()
    return [name for name in _FIXED if before.get(name) != after.get(name)]


async def put_in_force(installation: Installation, watch: Watch, rules: Following) -> None:
    """A server that starts puts its configuration in force, unless a person has put another one in its place.

    Raises `CommandError` where it cannot go on with that one.
    """
    while True:  # until nobody else has put anything in force in between
        head = await watch.look(TENANT)
        if (by_person := await overruled(installation, TENANT)) is not None:
            break
        activation = activation_of(installation, expected=head.bundle)
        if isinstance(await installation.store.commit(TENANT, Unit([activation])), Committed):
            return
    shown = by_person.bundle[:SHOWN_CHARS]
    _log.warning(
        "the configuration was replaced by a person's word: going on with the bundle that is in force; "
        "`comptroller bundle activate` puts the configuration in force again",
        bundle=shown,
        by=by_person.by,
    )
    await rules.follow(TENANT)
    if rules.bundle != by_person.bundle:
        raise CommandError(
            f"{by_person.by} put bundle {shown} in force in place of this configuration, and this server cannot take it "
            f"over: {rules.why}"
        )
