"""`http:` how this server is reached from outside itself, beside where it listens."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import httpx

__all__ = ["HttpConfig", "check_scheme", "is_loopback", "read_url"]


class HttpConfig(BaseModel):
    """`http:` the address that people's browsers reach this server at, where that is not the one it is bound to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public_url: str | None = Field(default=None, min_length=1, max_length=500)

    @field_validator("public_url")
    @classmethod
    def _is_safe(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parsed = read_url(url, "https://comptroller.example.com")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it must be plain ASCII; write other characters percent-encoded")
        check_scheme(parsed)
        if not parsed.host or parsed.userinfo or parsed.query or parsed.fragment or "?" in url or "#" in url:
            raise ValueError(
                "it must be a host and a path alone; a link that people get carries nothing else"
            )
        return url.rstrip("/")


def read_url(url: str, example: str) -> httpx.URL:
    """The parts of a URL. Raises `ValueError`, which shows what one looks like."""
    import httpx  # forty milliseconds of every start

    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError(f"it is no URL; write one like {example}") from None


def check_scheme(url: httpx.URL) -> None:
    """Raises `ValueError` for what would go over a network in the clear."""
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
        raise ValueError("it must begin with https://; plain http is for this machine (127.0.0.1) only")


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, as it is written; no resolver is asked."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
