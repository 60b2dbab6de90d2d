"""News of upstreams for those who may have it: what changed, and for whom that is any of their business.

A subscription begins with a reading that is decided and recorded like any other. At each notice policy and switches are
asked again, so nothing is told of what may no longer be read; a policy that needs look-ups cannot be asked so, and then
nobody subscribes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import Json, Subject
from comptroller_policy.engine import Bundle
from comptroller_server.call.lookups import LookUps
from comptroller_server.upstreams.offers import Offers, Reading
from comptroller_tools.catalogue import Catalogue
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["Listener", "News"]


class Listener(Protocol):
    """A face with clients. Called on the event loop; must not wait or raise."""

    def lists_moved(self) -> None: ...

    def updated(self, source: str, address: str) -> None: ...

    def said(self, source: str, whom: str, level: str, data: Json) -> None: ...


class News:
    """Hears the upstreams, and holds what their clients have subscribed to."""

    def __init__(
        self,
        catalogue: Catalogue,
        bundle: Bundle,
        offers: Offers,
        look_ups: LookUps,
        release: Release,
        halted: Callable[[str, str, str], bool],
        key_of: Callable[[Subject], str],
    ) -> None:
        self._halted = halted
        self._key_of = key_of
        self._listeners: set[Listener] = set()
        self._watched: Counter[tuple[str, str]] = Counter()
        self.follow(catalogue, bundle, offers, look_ups, release)

    def follow(
        self, catalogue: Catalogue, bundle: Bundle, offers: Offers, look_ups: LookUps, release: Release
    ) -> None:
        """Ask other rules from now on who may have news. The upstreams, and who listens, are the same."""
        sources = {tool.source.name: tool.source for tool in catalogue}
        self._sources: Mapping[str, UpstreamSource] = {
            name: source for name, source in sources.items() if isinstance(source, UpstreamSource)
        }
        self._tools = {name: [t.name for t in catalogue if t.source.name == name] for name in self._sources}
        self._catalogue = catalogue
        self._bundle = bundle
        self._offers = offers
        self._look_ups = look_ups
        self._release = release
        for source in self._sources.values():
            source.hearer = self

    @property
    def has_sources(self) -> bool:
        """Whether there is anybody who could have news."""
        return bool(self._sources)

    # -- for faces ------------------------------------------------------------------------------------------------

    def hear(self, listener: Listener) -> None:
        """Tell `listener` of all news, for the life of the service."""
        self._listeners.add(listener)

    def offered(self, subject: Subject) -> Mapping[str, Hashable]:
        """What this principal is offered beside its tools, to be compared with later: by kind of list."""
        resources = (*self._offers.resources(subject), *self._offers.templates(subject))
        prompts = tuple((one.name, one.description, *one.arguments) for one in self._offers.prompts(subject))
        return {"resources": resources, "prompts": prompts}

    def can_tell(self, reading: Reading) -> bool:
        """Whether policy can be asked again at each notice, without looking anything up."""
        reads = self._bundle.reads(reading.tool)
        return not (reads.facts or reads.history or reads.derived)

    def may_read(self, subject: Subject, reading: Reading) -> bool:
        """Whether this principal could read it now, as far as anything but a reading can say."""
        tool = self._catalogue.find(reading.tool)
        if tool is None or self._halted(subject.tenant, self._key_of(subject), tool.name):
            return False
        source = self._sources[tool.source.name]
        pin = source.addresses.find(reading.uri)
        if pin is None or source.quarantine(pin.name) is not None:
            return False
        return self.can_tell(reading) and self._look_ups.may_read(
            subject, tool.name, {"uri": "{input.uri}"}, {"input": {"uri": reading.uri}}
        )

    async def watch(self, reading: Reading) -> bool:
        """Ask the upstream for news of a resource, once for all who want it. False where it gives none."""
        source = self._source_of(reading)
        key = (source.name, reading.uri)
        self._watched[key] += 1
        agreed = False
        try:
            agreed = await source.watch(reading.uri)
        finally:
            if not agreed:
                self.leave(reading)
        return agreed

    def leave(self, reading: Reading) -> None:
        """One less wants it; without any the upstream is told so."""
        source = self._source_of(reading)
        key = (source.name, reading.uri)
        self._watched[key] -= 1
        if self._watched[key] <= 0:
            del self._watched[key]
            source.unwatch(reading.uri)

    def is_of(self, reading: Reading, source: str, address: str) -> bool:
        return reading.uri == address and self._source_of(reading).name == source

    def concerns(self, subject: Subject, source: str, whom: str) -> bool:
        """Whether this is the principal `whom`, and sees anything of the upstream now."""
        return self._key_of(subject) == whom and any(
            self._bundle.visible(subject, tool) for tool in self._tools.get(source, ())
        )

    def _source_of(self, reading: Reading) -> UpstreamSource:
        tool = self._catalogue.find(reading.tool)
        assert tool is not None
        return self._sources[tool.source.name]

    # -- from upstreams -------------------------------------------------------------------------------------------

    def listed(self, source: str) -> None:
        self.rules_moved()

    def rules_moved(self) -> None:
        """What anybody is offered may be another now."""
        for listener in self._listeners:
            listener.lists_moved()

    def updated(self, source: str, address: str) -> None:
        for listener in self._listeners:
            listener.updated(source, address)

    def said(self, source: str, whom: str, level: str, data: Any) -> None:
        told = self._release.release(data, Audience.MODEL).value
        for listener in self._listeners:
            listener.said(source, whom, level, told)
