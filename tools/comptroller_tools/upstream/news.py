"""What an upstream says unasked, and who is told: that a list may have changed, that a resource did, and log messages."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["LEVELS", "Hearer", "is_at_least"]

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Severities of log messages, least first (MCP "Logging", RFC 5424)."""


def is_at_least(level: str, least: str | None) -> bool:
    """Whether a message of `level` is to be told where `least` and more was asked for; None asks for nothing."""
    return level in LEVELS and least in LEVELS and LEVELS.index(level) >= LEVELS.index(least)


class Hearer(Protocol):
    """Who is told of news. Called on the event loop; must not wait, raise, or keep more than it can bound."""

    def listed(self, source: str) -> None:
        """What the upstream lists was read anew, and what is offered of it may differ."""
        ...

    def updated(self, source: str, address: str) -> None:
        """The watched resource at `address`, as the upstream calls it, may read otherwise now."""
        ...

    def said(self, source: str, whom: str, level: str, data: Any) -> None:
        """A log message outside of any call, to `whom` only: nobody else has ever called on this connection."""
        ...
