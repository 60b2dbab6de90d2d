"""The one road to every sink, with the field rules of each tool: `release(value, audience)` for a tool's own values.

What comes from no tool goes through `release` and `text` themselves, by patterns alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from comptroller_audit.patterns import CREDENTIALS
from comptroller_audit.redaction import Audience, FieldRule, Pattern, Release
from comptroller_audit.tokens import TokenBook
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_tools.catalogue import Tool
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.redactions import configured_rules

__all__ = ["Roads", "is_our_id", "roads_by_config", "roads_of"]

is_our_id = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
"""Ids of calls, tasks and attempts. They say nothing of anybody, and one in ten thousand looks like an IBAN."""


class Roads(Release):
    """The release that knows tools by name. One that it does not know has no field rules, and patterns all the same."""

    def __init__(
        self,
        release: Release,
        arguments: Mapping[str, tuple[FieldRule, ...]],
        output: Mapping[str, tuple[FieldRule, ...]],
        facts: Mapping[str, Mapping[str, str]],
        marked: Mapping[str, JsonObject],
        patterns: Iterable[Pattern],
    ) -> None:
        self._become(release)
        looked_for = set(patterns)
        self._of_arguments = _roads(release, arguments, looked_for)
        self._of_output = _roads(release, output, looked_for)
        self._plain = release
        self._facts = facts
        self._marked = marked
        hidden = (rule for rules in (*arguments.values(), *output.values()) for rule in rules)
        self.gives_tokens = bool(looked_for - {CREDENTIALS}) or any(
            Audience.MODEL not in rule.raw_for for rule in hidden
        )
        """Whether anything can become a token here; otherwise nobody keeps books of them."""

    def arguments(self, tool: str) -> Release:
        """The road of what is sent to `tool`."""
        return self._of_arguments.get(tool, self._plain)

    def output(self, tool: str) -> Release:
        """The road of what `tool` returns."""
        return self._of_output.get(tool, self._plain)

    def fact(self, tool: str, name: str) -> Release:
        """The road of `tool`'s fact `name`: that of the tool it is read with."""
        return self.output(self._facts.get(tool, {}).get(name, ""))

    def facts(
        self, tool: str, facts: Mapping[str, Json], audience: Audience, book: TokenBook | None = None
    ) -> JsonObject:
        return {
            name: self.fact(tool, name).release(value, audience, book).value for name, value in facts.items()
        }

    def at(
        self, tool: str, fact: str, path: str, value: Json, audience: Audience, book: TokenBook | None = None
    ) -> Json:
        """One field of a fact, as it is found at `path` within it."""
        return _along(self.fact(tool, fact), path, value, audience, book)

    def output_at(self, tool: str, path: str, value: Json, audience: Audience) -> Json:
        """One field of what `tool` returned, as it is found at `path` within it."""
        return _along(self.output(tool), path, value, audience, None)

    def marked(self, tool: str) -> JsonObject:
        """What only schemas say of a call's fields, by their place in a packet, for readers without the schemas."""
        return self._marked.get(tool, {})

    def told(
        self, text: str, audience: Audience, book: TokenBook | None, ids: Iterable[str | None] = ()
    ) -> str:
        """A sentence of ours as it may be told; `ids` are known to be ours and stay as they are."""
        pieces = [text]
        for known in {each for each in ids if each and is_our_id(each)}:
            pieces = [part for piece in pieces for part in _around(known, piece)]
        return "".join(piece if is_our_id(piece) else self.text(piece, audience, book) for piece in pieces)


def _around(known: str, text: str) -> list[str]:
    """`text` in pieces, with every `known` in it a piece of its own."""
    first, *others = text.split(known)
    return [first, *(piece for other in others for piece in (known, other))]


def _along(road: Release, path: str, value: Json, audience: Audience, book: TokenBook | None) -> Json:
    names = [name for name in path.split(".") if not name.isdigit()]
    whole: Json = value
    for name in reversed(names):
        whole = {name: whole}
    shown = road.release(whole, audience, book).value
    for name in names:
        if not isinstance(shown, dict) or name not in shown:
            return shown  # an object around it is withheld as one
        shown = shown[name]
    return shown


def _roads(
    release: Release, rules: Mapping[str, tuple[FieldRule, ...]], looked_for: AbstractSet[Pattern]
) -> dict[str, Release]:
    """A road for each tool with rules. Where only credentials are looked for, one that shows a field changes nothing."""
    if looked_for <= {CREDENTIALS}:
        readers = {Audience.MODEL, Audience.PERSON, Audience.RECORD}
        rules = {name: tuple(rule for rule in own if readers - rule.raw_for) for name, own in rules.items()}
    return {name: release.with_fields(own) for name, own in rules.items() if own}


def roads_of(release: Release, tools: Iterable[Tool], patterns: Iterable[Pattern]) -> Roads:
    """The roads of a catalogue's tools."""
    known = {tool.name: tool for tool in tools}
    marks: dict[str, JsonObject] = {}
    for tool in known.values():
        own: JsonObject = dict(tool.redactions.marked)
        for name, fact in tool.config.facts.items():
            read: Mapping[str, str] = known[fact.tool].redactions.marked if fact.tool in known else {}
            own |= {
                f"facts.{name}.{path.removeprefix('output.')}": kind
                for path, kind in read.items()
                if path.startswith("output.")
            }
        if own:
            marks[tool.name] = own
    return Roads(
        release,
        {name: tool.redactions.arguments for name, tool in known.items()},
        {name: tool.redactions.output for name, tool in known.items()},
        _fact_tools(tool.config for tool in known.values()),
        marks,
        patterns,
    )


def roads_by_config(
    release: Release,
    tools: Iterable[ToolConfig],
    patterns: Iterable[Pattern],
    marked: Mapping[str, str],
    tool: str,
) -> Roads:
    """The roads for reading a packet of `tool` without loading any source: by the config, and by what it `marked`."""
    configs = {config.name: config for config in tools}
    arguments: dict[str, tuple[FieldRule, ...]] = {}
    output: dict[str, tuple[FieldRule, ...]] = {}
    for name, config in configs.items():
        arguments[name], output[name] = configured_rules(config, marked if name == tool else None)
    facts = _fact_tools(configs.values())
    for path, kind in marked.items():
        root, _, rest = path.partition(".")
        fact, _, below = rest.partition(".")
        if root == "facts" and below:
            read = facts.get(tool, {}).get(fact, "")
            output[read] = (*output.get(read, ()), FieldRule(f"$.{below}", kind))
    return Roads(release, arguments, output, facts, {}, patterns)


def _fact_tools(configs: Iterable[ToolConfig]) -> dict[str, dict[str, str]]:
    return {config.name: {name: fact.tool for name, fact in config.facts.items()} for config in configs}
