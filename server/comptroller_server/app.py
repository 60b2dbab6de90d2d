"""The one composition root: builds the pipeline on an installation, starts what runs beside it, and ends it well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from comptroller_audit.errors import StoreError
from comptroller_audit.own_keys import remember_claim_key
from comptroller_audit.owners import Owner, owner_locks
from comptroller_audit.packets import LogRecord
from comptroller_audit.unit import Unit, WriteRecord
from comptroller_audit.vocabulary import RecordType, Subject
from comptroller_server.call.asking import ApprovalTerms
from comptroller_server.call.books import Books
from comptroller_server.call.breakers import Breakers
from comptroller_server.call.citations import Citations
from comptroller_server.call.commits import Commits
from comptroller_server.call.decisions import Decisions
from comptroller_server.call.dispatch import Counts, Dispatcher
from comptroller_server.call.evidence import Evidence
from comptroller_server.call.intake import Intake, IntakeTerms
from comptroller_server.call.kept_reads import KeptReads
from comptroller_server.call.lookups import LookUps
from comptroller_server.call.many import Batches
from comptroller_server.call.metering import metering_of
from comptroller_server.call.observing import Observing
from comptroller_server.call.outcomes import Outcomes
from comptroller_server.call.parts import Parts
from comptroller_server.call.provenance import Provenance
from comptroller_server.call.quotas import Quotas
from comptroller_server.call.repeats import Repeats
from comptroller_server.call.standing import Standings
from comptroller_server.call.traces import Tracer
from comptroller_server.call.watch import Watch
from comptroller_server.checks.checking import Checking, needs_of
from comptroller_server.checks.judge import Judging
from comptroller_server.config.model import Config
from comptroller_server.config.safety import citation_terms
from comptroller_server.errors import CommandError, ConfigInvalid
from comptroller_server.installation import TENANT, Installation, principal_key
from comptroller_server.people.canary import Canary
from comptroller_server.people.confirmations import Confirmations
from comptroller_server.people.editing import Editing
from comptroller_server.people.pages import DecisionPages
from comptroller_server.pipeline import Pipeline
from comptroller_server.streaming.streamer import Streams
from comptroller_server.tasks.builtins import BuiltIns
from comptroller_server.tasks.finish import Finishing
from comptroller_server.tasks.handing_over import HandOvers
from comptroller_server.tasks.rounds import TaskRounds
from comptroller_server.tasks.success import Success
from comptroller_server.tasks.taskbook import TaskBook
from comptroller_server.telemetry.scraping import Metrics, metrics_of
from comptroller_server.undo.compensation import Reversals
from comptroller_server.upkeep.bundles import (
    BundleUnusable,
    installation_in_force,
    newest_activation,
    overruled,
    put_in_force,
)
from comptroller_server.upkeep.checkpoints import Checkpointer
from comptroller_server.upkeep.following import Following
from comptroller_server.upkeep.lasting import Lasting
from comptroller_server.upkeep.readiness import Readiness
from comptroller_server.upkeep.recovery import Recovered, Recovery
from comptroller_server.upkeep.retention import Retention, demand_likely_time, keep_time
from comptroller_server.upstreams.news import News
from comptroller_server.upstreams.offers import Offers
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["Service", "attached", "running"]

DRAIN_S = 10.0
"""How long a shutdown waits for outcomes that are not written yet."""
COUNT_FLUSH_S = 1.0
"""How often counted refusals are recorded."""

_log = structlog.stdlib.get_logger()


@dataclass(slots=True)
class Service:
    """A serving process's parts. `recovered` is what the first recovery round found.

    `former` are the parts of rules that were in force before, whose calls may still be on their way.
    """

    installation: Installation
    owner: Owner
    lasting: Lasting
    pipeline: Following
    watch: Watch
    outcomes: Outcomes
    recovery: Recovery
    checkpointer: Checkpointer
    quotas: Quotas
    checking: Checking
    retention: Retention
    task_rounds: TaskRounds
    compensation: Reversals
    editing: Editing
    pages: DecisionPages
    offers: Offers
    news: News
    recovered: list[Recovered]
    activation: int = -1
    """Where the record of the activation that this process obeys stands in the log."""
    former: list[tuple[Outcomes, Checking]] = field(default_factory=list[tuple[Outcomes, Checking]])
    unwritten: list[str] = field(default_factory=list[str])
    """What its end could not write."""

    async def take_over(self, tenant: str, bundle: str) -> Pipeline:
        """Go on under the rules that a person, or another process, has put in force. Raises `ComptrollerError`.

        A call that has begun ends with the parts it began with; under rules that are not in force it commits nothing.
        """
        candidate, self.activation = await installation_in_force(
            self.installation, tenant, bundle, self.activation
        )
        now = build(candidate, self.owner, self)
        self.lasting.taskbook.follow(candidate.config.budgets)
        self.former.append((self.outcomes, self.checking))
        for name in (
            "installation",
            "outcomes",
            "recovery",
            "checking",
            "task_rounds",
            "compensation",
            "editing",
        ):
            setattr(self, name, getattr(now, name))
        self.news.rules_moved()
        return now.pipeline.now

    @property
    def metrics(self) -> Metrics | None:
        """What `/metrics` serves, where that is configured."""
        return metrics_of(lambda: (self.installation, self.readiness), self.lasting.telemetry)

    @property
    def readiness(self) -> Readiness:
        sources = self.installation.sources.values()
        upstreams = [source for source in sources if isinstance(source, UpstreamSource)]
        i = self.installation
        streams, clock = i.config.streams, i.ambient.clock
        return Readiness(self.owner, self.watch, TENANT, upstreams, self.pipeline, i.store, streams, clock)


def _offers(i: Installation, look_ups: LookUps, watch: Watch, before: Service | None) -> tuple[Offers, News]:
    """What is offered beside tools, and who hears of it; faces hold these for their life."""
    if before is None:
        offers = Offers(i.catalogue, i.policy, i.roads)
        return offers, _news(i, offers, look_ups, watch)
    before.offers.follow(i.catalogue, i.policy, i.roads)
    before.news.follow(i.catalogue, i.policy, before.offers, look_ups, i.roads)
    return before.offers, before.news


def _news(i: Installation, offers: Offers, look_ups: LookUps, watch: Watch) -> News:
    def halted(tenant: str, principal: str, tool: str) -> bool:
        return watch.switches(tenant).stops(tool, principal, "") is not None

    return News(i.catalogue, i.policy, offers, look_ups, i.roads, halted, _key_of(i))


def _key_of(i: Installation) -> Callable[[Subject], str]:
    return lambda subject: principal_key(i.ring, subject.tenant, subject.principal.id)


def build(installation: Installation, owner: Owner, before: Service | None = None) -> Service:
    """Wire everything. Pure construction: no file is touched and nothing runs yet.

    With `before`, a service under other rules, the new one shares what lasts with it.
    """
    i, config, ambient = installation, installation.config, installation.ambient
    store, ring, release, clock, ids = i.store, i.ring, i.roads, ambient.clock, ambient.ids
    limits, environment = config.limits, config.environment
    lasting = before.lasting if before is not None else Lasting.of(i, owner)
    watch, quotas, breakers = lasting.watch, lasting.quotas, lasting.breakers
    tracer = Tracer(config.logging.levels, release, clock)
    evidence = Evidence(release, i.bundle_digest, tracer)
    terms = ApprovalTerms(config.approvals.expires_s * 1000, config.approvals.pending_per_principal_max)
    metering = metering_of(config, lasting.waiting)
    provenance = Provenance(store, ring, i.catalogue, i.policy, config.sources)
    commits = Commits(
        evidence, config.budgets, config.rollout, terms, i.catalogue, owner, i.bundle_digest, metering, provenance
    )  # fmt: skip
    citing = citation_terms(config.retrieval, config.safety)
    citations = Citations(store, ring, i.catalogue, i.policy, release, clock, ids, citing)
    parts = Parts(i.catalogue, clock, ids, limits.more_s, limits.more_mib_max * 1024 * 1024)
    intake = Intake(
        i.catalogue, i.policy, store, ring, lasting.taskbook, Books(store, ring, release), quotas, citations, release, clock, ids,
        IntakeTerms(limits.replay_window_s * 1000), metering, parts,
    )  # fmt: skip
    needs = needs_of(config.tools, config.judges)
    look_ups = LookUps(
        i.catalogue, i.policy, store, release, clock, environment, watch.switches, needs, tracer, breakers, provenance
    )  # fmt: skip
    dispatcher = _dispatcher(i, owner, watch, lasting.counts, tracer, breakers)
    outcomes = Outcomes(
        store, ring, commits, evidence, intake, dispatcher, release, config.budgets, clock, ids, environment
    )
    outcomes.reversing = lasting.reversing
    repeats = Repeats(store, ring, i.catalogue, commits, evidence, release, quotas, clock, i.policy, watch)
    decisions = Decisions(i.policy, watch, clock, environment, tracer)
    locks = owner_locks(store.database, clock)
    checking = Checking(i.checks, look_ups, release, Judging(i.judges, store, metering, release, clock, ids))
    recovery = Recovery(
        store, ring, locks, owner, i.catalogue, look_ups, commits, clock, ambient.fault, outcomes.reversing
    )
    built_ins = _built_ins(i, lasting.taskbook, watch, commits, evidence, look_ups, quotas)
    canary = Canary(config.rollout, store, ring, i.catalogue, watch.rollouts, outcomes.charges)
    confirmations = Confirmations(
        store, ring, commits, decisions, outcomes, intake, release, clock, i.interactive, config.agent.name, lasting.pages,
        lasting.declined,
    )  # fmt: skip
    compensation = Reversals(
        store, ring, intake, look_ups, decisions, checking, i.catalogue, dispatcher, outcomes, commits, watch, clock, ids,
        ambient.fault,
    )  # fmt: skip
    entries_max, bytes_max = limits.cache_entries_max, limits.cache_mib_max * 1024 * 1024
    kept_reads = KeptReads(store, i.catalogue, clock, entries_max, bytes_max)
    pipeline = Pipeline(
        intake, look_ups, canary, decisions, repeats, kept_reads, dispatcher, outcomes, watch, checking, confirmations, built_ins,
        Batches(store, i.policy, commits, evidence, release), lasting.loops, compensation,
        Observing(config.mode, store, clock), lasting.telemetry, Standings(store, commits, i.policy, clock, _key_of(i)),
    )  # fmt: skip
    editing = Editing(
        store, ring, i.catalogue, intake, look_ups, canary, decisions, checking, outcomes, commits, watch, release,
        clock, ids,
    )  # fmt: skip
    offers, news = _offers(i, look_ups, watch, before)
    service = Service(
        i, owner, lasting, Following(pipeline, i.bundle_digest, watch), watch, outcomes, recovery,
        lasting.checkpointer, quotas, checking, lasting.retention, _rounds(i), compensation, editing, lasting.pages,
        offers, news, [],
    )  # fmt: skip
    service.pipeline.change = service.take_over
    return service


def _rounds(i: Installation) -> TaskRounds:
    hand_overs = HandOvers(i.store, i.ring, i.roads, i.config.agent)
    return TaskRounds(i.store, hand_overs, i.config.budgets, i.ambient.clock)


def _built_ins(
    i: Installation,
    taskbook: TaskBook,
    watch: Watch,
    commits: Commits,
    evidence: Evidence,
    look_ups: LookUps,
    quotas: Quotas,
) -> BuiltIns:
    return BuiltIns(
        i.store,
        i.ring,
        taskbook,
        watch,
        commits,
        evidence,
        HandOvers(i.store, i.ring, i.roads, i.config.agent),
        Finishing(Success(i.success, look_ups, i.ambient.clock), i.roads, evidence),
        i.roads,
        quotas,
        i.ambient.ids,
        i.config.budgets,
        _orchestrators(i.config),
    )


def _orchestrators(config: Config) -> frozenset[str]:
    clients = config.identity.local.clients
    return frozenset(name for name, client in clients.items() if client.orchestrator)


def _dispatcher(
    i: Installation, owner: Owner, watch: Watch, counts: Counts, tracer: Tracer, breakers: Breakers
) -> Dispatcher:
    limits, ambient = i.config.limits, i.ambient
    return Dispatcher(
        ambient.clock,
        owner,
        watch.switches,
        limits.in_flight_max,
        limits.queue_max,
        counts,
        ambient.fault,
        tracer,
        breakers,
        i.roads,
        i.config.telemetry.traces.sample if i.config.telemetry.traces is not None else None,
    )


@contextlib.asynccontextmanager
async def running(installation: Installation) -> AsyncGenerator[Service]:
    """A service that has activated its bundle and recovered, with its background work; ends in a checkpoint.

    Raises `ConfigInvalid`, `StoreError` or `KeyRingError` when it cannot start.
    """
    installation.check()
    store, ambient = installation.store, installation.ambient
    locks = owner_locks(store.database, ambient.clock)
    service = build(installation, await asyncio.to_thread(Owner, locks, ambient.ids))
    background: list[asyncio.Task[None]] = []
    config = installation.config
    try:
        await service.checkpointer.demand_keys(TENANT, config.store.keys_file)
        await service.checkpointer.refuse_older(TENANT)
        await demand_likely_time(store, ambient.clock, TENANT)
        await remember_claim_key(store, TENANT)
        await keep_time(store, ambient.clock, TENANT, begins=True)
        await put_in_force(installation, service.watch, service.pipeline)
        service.activation = await newest_activation(service.installation, TENANT)
        await service.watch.look(TENANT)
        await service.watch.acknowledge(TENANT)
        await service.checkpointer.demand_keys(TENANT, config.store.keys_file)
        service.recovered.extend(await service.recovery.round(TENANT))
        await service.task_rounds.round(TENANT)
        for source in installation.sources.values():
            if isinstance(source, UpstreamSource):
                source.start()
        background = [
            _for_ever("watch", service.watch.run([TENANT], service.pipeline.follow)),
            _for_ever("recovery", _recover(service, config.limits.recovery_interval_s)),
            _for_ever("checkpoints", service.checkpointer.run([TENANT], config.store.checkpoint_interval_s)),
            _for_ever("counting", _count_refusals(service)),
            _for_ever("streams", Streams(lambda: service.installation, ambient.clock).run()),
            _for_ever("retention", service.retention.run(TENANT, config.limits.retention_interval_s)),
        ]
        yield service
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await _end(service)


@contextlib.asynccontextmanager
async def attached(installation: Installation) -> AsyncGenerator[Service]:
    """A service for one command beside the serving ones: it obeys halts, and neither activates nor recovers anything.

    Raises `CommandError` where other rules are in force than this configuration's, else as `running`.
    """
    installation.check()
    store, ambient = installation.store, installation.ambient
    head = await store.read(lambda reader: reader.head(TENANT))
    if head is not None and await overruled(installation, TENANT) is not None:
        with contextlib.suppress(ConfigInvalid, BundleUnusable):
            installation, _ = await installation_in_force(installation, TENANT, head.bundle, -1)
    if head is None or head.bundle != installation.bundle_digest:
        await store.close()
        raise CommandError(
            "other rules are in force in this store than this configuration's; start `comptroller serve` with it first"
        )
    locks = owner_locks(store.database, ambient.clock)
    service = build(installation, await asyncio.to_thread(Owner, locks, ambient.ids))
    watching: asyncio.Task[None] | None = None
    try:
        await service.checkpointer.refuse_older(TENANT)
        await service.watch.look(TENANT)
        await service.watch.acknowledge(TENANT)
        await service.checkpointer.demand_keys(TENANT, installation.config.store.keys_file)
        watching = _for_ever("watch", service.watch.run([TENANT]))
        yield service
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await _end(service)


def _for_ever(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name)


async def _end(service: Service) -> None:
    """Unwritten outcomes, a last checkpoint, then the lock: what is left then is for the next start."""
    left = sum([await outcomes.drain(DRAIN_S) for outcomes, _ in service.former])
    left += await service.outcomes.drain(DRAIN_S)
    if left:
        _log.error("outcomes not written; the next start will look them up", calls=left)
        service.unwritten.append(f"the outcomes of {left} calls, which the next start looks up")
    signed = False
    try:
        await flush_counted(service)
        signed = await service.checkpointer.write(TENANT)
    except StoreError as error:
        _log.error("the last checkpoint was not written", error=str(error))
    if not signed:
        service.unwritten.append("the last checkpoint")
    for checking in (*(checking for _, checking in service.former), service.checking):
        await checking.close()
    await asyncio.to_thread(service.lasting.telemetry.close)
    sources = service.installation.sources.values()
    await asyncio.gather(*(source.close() for source in sources))
    await service.installation.store.close()
    if any(getattr(source, "busy", 0) for source in sources):
        # Freed now, another process would look, find nothing and call it not done, while the tool goes on here.
        _log.error(
            "a tool still runs past its deadline; the owner lock goes with the process",
            owner=service.owner.id,
        )
    else:
        service.owner.release()


async def _recover(service: Service, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await keep_time(service.installation.store, service.installation.ambient.clock, TENANT)
            await service.recovery.round(TENANT)
            await service.task_rounds.round(TENANT)
        except StoreError as error:
            _log.warning("recovery waits for the store", error=str(error))


async def _count_refusals(service: Service) -> None:
    while True:
        await asyncio.sleep(COUNT_FLUSH_S)
        with contextlib.suppress(StoreError):
            await flush_counted(service)


async def flush_counted(service: Service) -> None:
    """One counting record for all refusals of a flood since the last one."""
    counted = list(service.quotas.take_counted())
    if not counted:
        return
    packet: dict[str, Any] = {"v": 1, "refusals": dict(counted), "owner": service.owner.id}
    try:
        await service.installation.store.commit(
            TENANT, Unit([WriteRecord(LogRecord(RecordType.REFUSALS_COUNTED, packet))])
        )
    except StoreError:
        service.quotas.put_back(counted)
        raise
