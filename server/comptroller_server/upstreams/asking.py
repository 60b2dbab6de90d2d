"""Asking upstreams what they list, side by side; none of them keeps the others from answering."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from comptroller_server.config.model import Config
from comptroller_server.upstreams.standing import Seen, look_over
from comptroller_tools.upstream.cleaning import clean
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["Asked", "ask"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one upstream answered: its tools as they stand, entries that cannot be read, or why it was not reached."""

    source: str
    seen: tuple[Seen, ...] = ()
    wrong: tuple[str, ...] = ()
    unreachable: str | None = None


async def ask(config: Config, sources: Iterable[str]) -> list[Asked]:
    """Start or reach each of the sources, list its tools, and let it go again."""
    return list(await asyncio.gather(*(_ask(config, name) for name in sources)))


async def _ask(config: Config, name: str) -> Asked:
    from comptroller_tools.upstream.link import Unreachable

    source = UpstreamSource(name, config.upstreams[name], {})
    try:
        listing = await source.listing()
    except Unreachable as error:
        said = clean(error.said, 1_000)
        return Asked(name, unreachable=f"{error}. It said: {said}" if said else str(error))
    finally:
        await source.close()
    seen = look_over(name, listing.tools, config.pins.get(name, {}), config.tools)
    return Asked(name, tuple(seen), tuple(listing.wrong))
