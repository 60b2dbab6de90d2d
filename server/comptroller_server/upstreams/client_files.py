"""A client's file as it was read, and the same file with us in place of its servers. All other text stays as it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comptroller_server.errors import CommandError
from comptroller_server.setting_up.clients import ENTRY, Client
from comptroller_server.setting_up.jsonc import members, span_of

__all__ = ["ClientFile", "Found", "ServerList"]

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Found:
    """One server of the file. `mcp` is what to write of it, `secrets` the values it refers to, by file name.

    `why_not` says why it stays where it is; `asks` is the id of the input it waits for.
    """

    name: str
    source: str = ""
    mcp: Mapping[str, Any] = field(default_factory=dict[str, Any])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    why_not: str | None = None
    asks: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerList:
    """One list of servers in a file; `keys` lead to it."""

    keys: tuple[str, ...]
    servers: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class ClientFile:
    """The file as it is, and the servers in it. `client` is whose it is; None where that is not known.

    `plain` is its text without comments, in which everything stands where it stands in `content`.
    """

    path: Path
    client: Client | None
    content: bytes = field(repr=False)
    plain: str = field(repr=False)
    lists: tuple[ServerList, ...]

    @property
    def servers(self) -> tuple[Found, ...]:
        return tuple(one for each in self.lists for one in each.servers)

    @property
    def governable(self) -> tuple[Found, ...]:
        return tuple(one for one in self.servers if one.why_not is None)

    def leaving(self, names: Collection[str], why: str) -> ClientFile:
        """The same file, of which the servers with these names stay as they are."""
        lists = [
            replace(
                each,
                servers=tuple(
                    replace(one, why_not=why, asks=None) if one.name in names else one for one in each.servers
                ),
            )
            for each in self.lists
        ]
        return replace(self, lists=tuple(lists))

    @property
    def switched_lists(self) -> tuple[tuple[str, ...], ...]:
        """Where we stand in place of servers, once it is switched."""
        return tuple(each.keys for each in self.lists if any(one.why_not is None for one in each.servers))

    def switched(self, entry: Mapping[str, Any]) -> bytes:
        """The file with one entry of ours in place of the servers that are governed, in every list that has some.

        Raises `CommandError` where the list cannot be found in the text.
        """
        bom = self.content[: len(_BOM)] if self.content.startswith(_BOM) else b""
        text = self.content[len(bom) :].decode()
        spans: list[tuple[int, int, str]] = []
        for each in self.lists:
            taken = [one.name for one in each.servers if one.why_not is None]
            if taken:
                spans.append(self._rewritten(text, each.keys, entry, taken))
        for begin, end, new in sorted(spans, reverse=True):
            text = text[:begin] + new + text[end:]
        return bom + text.encode()

    def _rewritten(
        self, text: str, keys: tuple[str, ...], entry: Mapping[str, Any], taken: Collection[str]
    ) -> tuple[int, int, str]:
        span = span_of(self.plain, keys)
        if span is None:
            raise CommandError(f"{self.path}: the list of servers was not found again; nothing was changed")
        kept = {
            name: text[begin:end]
            for name, begin, end in members(self.plain, span[0])
            if name not in taken and name != ENTRY
        }
        told = json.dumps(dict(entry), indent=2, ensure_ascii=False)
        new = {ENTRY: told} | kept
        lines = ",\n".join(f"{json.dumps(name, ensure_ascii=False)}: {value}" for name, value in new.items())
        return *span, f"{{\n{lines}\n}}"
