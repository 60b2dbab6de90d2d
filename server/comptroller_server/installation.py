"""An installation as it lies on disk: config, key ring, store, sources, catalogue and policy bundle. No behaviour.

Every command of the CLI opens one; `app.py` makes it serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from comptroller_audit.ambient import Clock, Ids, RandomIds, SystemClock
from comptroller_audit.canonical import canonical_bytes, digest, keyed_digest
from comptroller_audit.errors import KeyRingError
from comptroller_audit.own_keys import demand_own_keys
from comptroller_audit.redaction import Release
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import FaultPoint, InlineLane, Store, ThreadLane, no_fault
from comptroller_policy.bundle import compile_bundle
from comptroller_policy.declarations import RequesterTerms
from comptroller_policy.engine import Bundle
from comptroller_policy.errors import BundleInvalid, Finding
from comptroller_server.call.roads import Roads, roads_of
from comptroller_server.checks.judge import Judge
from comptroller_server.config.judges import VERIFIER, input_findings
from comptroller_server.config.model import Config
from comptroller_server.config.safety import citation_terms
from comptroller_server.config.trust import trust_findings
from comptroller_server.errors import ConfigInvalid
from comptroller_server.face.identity import LocalIdentity
from comptroller_server.tasks.success import Condition, compile_success
from comptroller_server.upkeep.steady_clock import SteadyClock
from comptroller_tools.catalogue import Catalogue, CatalogueInvalid
from comptroller_tools.check_loading import LoadedChecks, load_checks
from comptroller_tools.errors import SourceInvalid
from comptroller_tools.functions import FunctionSource
from comptroller_tools.source import Source
from comptroller_tools.upstream.children import HeadStarts
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["TENANT", "Ambient", "Installation", "open_ring", "open_sources"]

TENANT = "local"
"""The one tenant of a store without an identity provider."""


@dataclass(frozen=True, slots=True)
class Ambient:
    """What the simulation owns: clock, ids, faults, and whether the store writes on a thread of its own."""

    clock: Clock = field(default_factory=SystemClock)
    ids: Ids = field(default_factory=lambda: RandomIds(SystemClock()))
    fault: FaultPoint = no_fault
    threaded: bool = True


@dataclass(frozen=True)
class Installation:
    """Everything `serve` and the other commands work on. Raises `ConfigInvalid` with every finding at once."""

    config: Config
    ambient: Ambient = field(default_factory=Ambient)
    given_sources: Mapping[str, Source] | None = None
    head_starts: HeadStarts | None = None
    """Upstreams whose processes were begun before this was put together."""

    def __post_init__(self) -> None:
        if not isinstance(self.ambient.clock, SteadyClock):
            steady = SteadyClock(self.ambient.clock, self.config.limits.clock_jump_s_max)
            object.__setattr__(self, "ambient", replace(self.ambient, clock=steady))

    @cached_property
    def ring(self) -> KeyRing:
        """The store's keys; new ones only for a store that holds nothing yet. Raises `KeyRingError`."""
        path = self.config.store.keys_file
        if not path.exists() and self._is_begun:
            demand_own_keys(self.config.store.url.get_secret_value(), TENANT, path, None)
        return open_ring(path, self.ambient.ids)

    @property
    def _is_begun(self) -> bool:
        """Whether there may be a store already; looking into one that is not there would make it."""
        database = self.config.store.database
        return database is None or database.exists()

    @cached_property
    def store(self) -> Store:
        a = self.ambient
        lane, url, ring = (
            ThreadLane if a.threaded else InlineLane,
            self.config.store.url.get_secret_value(),
            self.ring,
        )
        if self._is_begun:
            demand_own_keys(url, TENANT, self.config.store.keys_file, ring)
        return Store.open(url, ring, a.clock, a.ids, a.fault, lane)

    @cached_property
    def store_id(self) -> str:
        """Names this store for ever: derived from the claim key, which is never rotated."""
        return keyed_digest(self.ring.claim_key(TENANT), "store-id")[:16]

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        return (
            self.given_sources
            if self.given_sources is not None
            else open_sources(self.config, self.ambient.clock, self.head_starts)
        )

    @cached_property
    def catalogue(self) -> Catalogue:
        try:
            config = self.config
            citing = citation_terms(config.retrieval, config.safety)
            fixed = {name: value.get_secret_value() for name, value in config.fixed_secrets.items()}
            catalogue = Catalogue(config.tools, self.sources, config.safety.patterns, citing, fixed)
        except CatalogueInvalid as error:
            raise ConfigInvalid(self.config.placed(error.findings)) from error
        if findings := tuple(trust_findings(catalogue, config.sources)):
            raise ConfigInvalid(config.placed(findings))
        return catalogue

    @cached_property
    def policy(self) -> Bundle:
        try:
            tools, config = self.catalogue.for_policy(), self.config
            requester = RequesterTerms(frozenset(config.approvals.requester_may), bool(self.interactive))
            return compile_bundle(tools, config.policies, config.rollout.mode, requester)
        except BundleInvalid as error:
            raise ConfigInvalid(self.config.placed(error.findings)) from error

    @property
    def interactive(self) -> frozenset[str]:
        """The clients at which a person sits who can be asked."""
        clients = self.config.identity.local.clients
        return frozenset(name for name, client in clients.items() if client.interactive)

    @cached_property
    def checks(self) -> LoadedChecks:
        try:
            return load_checks(self.catalogue, self.config.base_dir)
        except CatalogueInvalid as error:
            raise ConfigInvalid(self.config.placed(error.findings)) from error

    @cached_property
    def success(self) -> tuple[Condition, ...]:
        """The compiled conditions of `tasks.success`."""
        conditions, findings = compile_success(self.config.tasks.success, self.catalogue)
        if findings:
            raise ConfigInvalid(self.config.placed(findings))
        return conditions

    @cached_property
    def judges(self) -> Mapping[str, Judge]:
        findings = input_findings(self.catalogue, self.config.judges)
        if findings:
            raise ConfigInvalid(self.config.placed(findings))
        keys = {name: key.get_secret_value() for name, key in self.config.judge_keys.items()}
        models = self.config.models
        return {
            name: Judge(name, judge, judge.model or models[VERIFIER], keys.get(name))
            for name, judge in self.config.judges.items()
        }

    @cached_property
    def bundle_digest(self) -> str:
        """SHA-256 (hex) over policy, config and the code of checks: what a packet says was in force."""
        material = canonical_bytes(self.config.digest_material())
        code = self.checks.code.encode()
        return digest("comptroller/bundle/v1", self.policy.digest.encode(), material, code).hex()

    @cached_property
    def release(self) -> Release:
        """The road of what belongs to no tool, and of commands that load no source."""
        return Release(self.config.secrets, self.config.safety.patterns)

    @cached_property
    def roads(self) -> Roads:
        """The road with the field rules of every tool."""
        return roads_of(self.release, self.catalogue, self.config.safety.patterns)

    @cached_property
    def identity(self) -> LocalIdentity:
        local = self.config.identity.local
        return LocalIdentity(
            self.store_id, local.subject, local.roles, list(local.clients), self.config.data_dir / "tokens"
        )

    @cached_property
    def principal_key(self) -> str:
        """The local person's keyed digest, as tables hold it."""
        return principal_key(self.ring, TENANT, self.identity.principal.id)

    def with_config(self, config: Config) -> Installation:
        """The same store and keys under another configuration, and the same sources where it has no others."""
        own, others = self.config.digest_material(), config.digest_material()
        same = all(own[section] == others[section] for section in ("sources", "pins"))
        other = Installation(config, self.ambient, self.sources if same else None)
        vars(other).update(ring=self.ring, store=self.store)
        return other

    @property
    def log_name(self) -> str:
        """The origin of this store's checkpoints, without the tenant."""
        return f"comptroller.local/{self.store_id}"

    def check(self) -> None:
        """Compile everything that can be wrong without serving. Raises `ConfigInvalid`."""
        self.policy  # noqa: B018 -- compiling is the check
        self.success  # noqa: B018 -- likewise
        self.checks  # noqa: B018
        self.judges  # noqa: B018


def principal_key(ring: KeyRing, tenant: str, principal: str) -> str:
    return keyed_digest(ring.claim_key(tenant), "principal", principal.encode())[:32]


def open_ring(path: Path, ids: Ids) -> KeyRing:
    """The key ring at `path`, created when there is none yet. Raises `KeyRingError`."""
    if path.exists():
        return KeyRing.load(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KeyRingError(
            f"the folder {path.parent} for the keys cannot be made ({error.strerror}); give this account a folder it "
            "can write to, or name another with --data-dir"
        ) from error
    try:
        return KeyRing.create(path, ids.random_bytes)
    except KeyRingError:
        if path.exists():  # another process was faster
            return KeyRing.load(path)
        raise


def open_sources(config: Config, clock: Clock, head_starts: HeadStarts | None = None) -> dict[str, Source]:
    """Every configured source. Raises `ConfigInvalid` with what does not load."""
    sources: dict[str, Source] = {}
    findings: list[Finding] = []
    for name, source in config.sources.items():
        kind = "mcp" if source.python is None else "python"
        try:
            if source.python is None:
                pins = config.pins.get(name, {})
                settings = config.upstreams[name]
                sources[name] = UpstreamSource(name, settings, pins, clock=clock, head_starts=head_starts)
            else:
                sources[name] = FunctionSource(name, source.python, base_dir=config.base_dir, clock=clock)
        except SourceInvalid as error:
            where = f"sources.{name}.{kind}"
            findings += [Finding(where, line.removeprefix(f"{where}: ")) for line in str(error).splitlines()]
    if findings:
        raise ConfigInvalid(config.placed(findings))
    return sources
