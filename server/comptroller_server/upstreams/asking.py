"""Asking upstreams what they list, side by side; none of them keeps the others from answering."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from comptroller_policy.errors import Finding
from comptroller_server.config.model import Config
from comptroller_server.upstreams.standing import Seen, Standing, look_over
from comptroller_tools.upstream.cleaning import clean
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["Asked", "ask", "upstream_warnings"]

NAMES_MAX = 10
"""New tools that a warning names; of the rest it says how many there are."""


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


def upstream_warnings(answers: Iterable[Asked]) -> list[Finding]:
    """What an operator should know of each upstream: not reached, tools set aside with what changed, tools left out."""
    found: list[Finding] = []
    for one in answers:
        where = f"sources.{one.source}.mcp"
        look = f"see `comptroller classify {one.source}`"
        if one.unreachable is not None:
            found.append(Finding(where, f"cannot be asked: {one.unreachable}"))
        for seen in one.seen:
            name = clean(seen.name, 80)
            if seen.standing is Standing.CHANGED:
                changes = "; ".join(seen.notes)
                found.append(
                    Finding(where, f"`{name}` is set aside, its definition changed ({changes}); {look}")
                )
            elif seen.standing is Standing.GONE:
                found.append(Finding(where, f"`{name}` is set aside, it is listed no longer; {look}"))
            elif seen.standing is Standing.UNUSABLE and seen.effect is not None:
                found.append(Finding(where, f"`{name}` is set aside: {'; '.join(seen.notes)}; {look}"))
        new = [clean(seen.name, 80) for seen in one.seen if seen.standing is Standing.NEW]
        if new:
            more = f" and {len(new) - NAMES_MAX} more" if len(new) > NAMES_MAX else ""
            found.append(
                Finding(where, f"lists what nobody accepted ({', '.join(new[:NAMES_MAX])}{more}); {look}")
            )
    return found
