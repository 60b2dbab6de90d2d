"""`http:` how this server is reached from outside itself, beside where it listens."""

from __future__ import annotations

import ipaddress

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["HttpConfig", "is_loopback"]


class HttpConfig(BaseModel):
    """`http:` the address that people's browsers reach this server at, where that is not the one it is bound to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public_url: str | None = Field(default=None, min_length=1, max_length=500)

    @field_validator("public_url")
    @classmethod
    def _is_safe(cls, url: str | None) -> str | None:
        if url is None:
            return None
        import httpx  # forty milliseconds of every start

        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise ValueError("it is no URL; write one like https://comptroller.example.com") from None
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it must be plain ASCII; write other characters percent-encoded")
        if parsed.scheme != "https" and not (parsed.scheme == "http" and is_loopback(parsed.host)):
            raise ValueError("it must begin with https://; plain http is for this machine (127.0.0.1) only")
        if not parsed.host or parsed.userinfo or parsed.query or parsed.fragment or "?" in url or "#" in url:
            raise ValueError(
                "it must be a host and a path alone; a link that people get carries nothing else"
            )
        return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, as it is written; no resolver is asked."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
