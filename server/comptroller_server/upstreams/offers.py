"""Resources and prompts of upstreams as one principal sees them, under addresses and names that cannot collide.

An address is offered as it is while its scheme is one upstream's alone. Upstreams that share a scheme have all of their
addresses of it offered as `comptroller:SOURCE:ADDRESS`. A prompt has the name of its entry in `tools`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comptroller_audit.redaction import Audience
from comptroller_audit.vocabulary import Subject
from comptroller_policy.engine import Bundle
from comptroller_server.call.roads import Roads
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.upstream.addresses import OUR_SCHEME, scheme_of
from comptroller_tools.upstream.definitions import Kind, Unusable, Written
from comptroller_tools.upstream.relayed import PromptArgument
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["Completing", "OfferedPrompt", "OfferedResource", "Offers", "Reading"]


@dataclass(frozen=True, slots=True)
class OfferedResource:
    """A resource or a template; `uri` is as clients are to give it, texts are cleaned and released."""

    uri: str
    name: str
    title: str
    description: str
    mime_type: str


@dataclass(frozen=True, slots=True)
class OfferedPrompt:
    name: str
    description: str
    arguments: Sequence[PromptArgument]


@dataclass(frozen=True, slots=True)
class Reading:
    """Which tool reads an address, and what the upstream calls it."""

    tool: str
    uri: str


@dataclass(frozen=True, slots=True)
class Completing:
    """Which tool completes an argument, and of what: the name of a pin. No tool, no completion."""

    tool: str | None
    accepted: str


class Offers:
    """What is offered beside tools. Moves with the rules in force alone; what is set aside is asked for each time."""

    def __init__(self, catalogue: Catalogue, bundle: Bundle, release: Roads) -> None:
        self.follow(catalogue, bundle, release)

    def follow(self, catalogue: Catalogue, bundle: Bundle, release: Roads) -> None:
        """Offer what other rules say from now on, of the same upstreams."""
        self._bundle = bundle
        self._release = release
        self._readers = {tool.source.name: tool for tool in catalogue if tool.kind is Kind.RESOURCE}
        self._prompts = [tool for tool in catalogue if tool.kind is Kind.PROMPT]
        self._completers = {tool.source.name: tool for tool in catalogue if tool.kind is Kind.COMPLETION}
        owners = Counter(
            scheme for tool in self._readers.values() for scheme in _source(tool).addresses.schemes
        )
        self._shared = {scheme for scheme, count in owners.items() if count > 1}

    @property
    def has_resources(self) -> bool:
        return bool(self._readers)

    @property
    def has_prompts(self) -> bool:
        return bool(self._prompts)

    @property
    def has_completions(self) -> bool:
        return bool(self._completers)

    def resources(self, subject: Subject) -> list[OfferedResource]:
        return list(self._listed(subject, Kind.RESOURCE))

    def templates(self, subject: Subject) -> list[OfferedResource]:
        return list(self._listed(subject, Kind.TEMPLATE))

    def prompts(self, subject: Subject) -> list[OfferedPrompt]:
        return [
            OfferedPrompt(tool.name, self._text(tool.description), self._arguments(tool))
            for tool in self._prompts
            if self._bundle.visible(subject, tool.name) and tool.quarantine() is None
        ]

    def reading(self, offered: str) -> Reading | None:
        """What is read where a client asks for `offered`; None where no upstream has anything accepted there."""
        for source, tool in self._readers.items():
            prefix = f"{OUR_SCHEME}:{source}:"
            own = offered.removeprefix(prefix)
            try:
                shared = scheme_of(own) in self._shared
            except Unusable:
                continue
            if shared is offered.startswith(prefix) and _source(tool).addresses.find(own) is not None:
                return Reading(tool.name, own)
        return None

    def completing(self, subject: Subject, kind: Kind, offered: str) -> Completing | None:
        """What completes arguments of the prompt or template `offered`; None where this principal is offered no such."""
        offering = self._prompts if kind is Kind.PROMPT else self._readers.values()
        for tool in (one for one in offering if self._bundle.visible(subject, one.name)):
            source = _source(tool)
            for pin in source.pins.values():
                is_it = (
                    pin.name == tool.definition.name and tool.name == offered
                    if kind is Kind.PROMPT
                    else pin.kind is Kind.TEMPLATE and self._address(source.name, pin) == offered
                )
                if is_it:
                    completer = self._completers.get(source.name)
                    sees = completer is not None and self._bundle.visible(subject, completer.name)
                    return Completing(completer.name if completer and sees else None, pin.name)
        return None

    def _listed(self, subject: Subject, kind: Kind) -> Iterator[OfferedResource]:
        for tool in self._readers.values():
            if not self._bundle.visible(subject, tool.name):
                continue
            source = _source(tool)
            for pin in source.pins.values():
                address = self._address(source.name, pin)
                if pin.kind is not kind or source.quarantine(pin.name) is not None:
                    continue
                if self._text(address) != address:  # it holds a secret, and cannot be offered without it
                    continue
                texts = (self._text(pin.text(key)) for key in ("name", "title", "description", "mimeType"))
                yield OfferedResource(address, *texts)

    def _arguments(self, tool: Tool) -> list[PromptArgument]:
        """Those that a caller gives, after the operator's shaping."""
        given: Mapping[str, Any] = tool.advertised_input.get("properties", {})
        required = tool.advertised_input.get("required", ())
        return [
            PromptArgument(name, self._text(str(one.get("description", ""))), name in required)
            for name, one in given.items()
        ]

    def _address(self, source: str, pin: Written) -> str:
        if pin.kind in (Kind.RESOURCE, Kind.TEMPLATE) and scheme_of(pin.own) in self._shared:
            return f"{OUR_SCHEME}:{source}:{pin.own}"
        return pin.own

    def _text(self, text: str) -> str:
        return self._release.text(text, Audience.MODEL)


def _source(tool: Tool) -> UpstreamSource:
    assert isinstance(tool.source, UpstreamSource)
    return tool.source
