"""Where a person reads how a call is decided: a page of this server, as long as it serves HTTP."""

from __future__ import annotations

__all__ = ["DECIDE", "DecisionPages"]

DECIDE = "/decide/"
"""The path of the pages; the id of a call follows."""


class DecisionPages:
    """The address of a call's page, or None over stdio: then the command line is named instead.

    `public_url` is where browsers reach this server; without it, the address it is bound to.
    """

    def __init__(self, public_url: str | None) -> None:
        self._public = public_url
        self._base: str | None = None

    def served_at(self, origin: str) -> None:
        """This process serves the pages, at `origin` (`http://127.0.0.1:8400`)."""
        self._base = self._public or origin

    def __call__(self, call: str) -> str | None:
        return f"{self._base}{DECIDE}{call}" if self._base is not None else None
