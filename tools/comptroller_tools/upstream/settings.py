"""What is known of an upstream before it is reached: how to start or find it, and what it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from comptroller_tools.questions import Asks

__all__ = ["ErrorsMean", "HttpEndpoint", "MayAsk", "OAuthClient", "StdioCommand", "UpstreamSettings"]


class ErrorsMean(StrEnum):
    """What it says of a side effect that its tool answered with an error (`isError`)."""

    IN_DOUBT = "in_doubt"
    NOT_DONE = "not_done"


@dataclass(frozen=True, slots=True)
class StdioCommand:
    """A command that speaks MCP on its standard streams. `env` is all it gets beside `BASICS` of `children`."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: Path | None = None


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """Who asks for tokens with client credentials (RFC 6749 §4.4), and where; without `token_url` it is looked for.

    `resource` is what the token is for (RFC 8707).
    """

    client_id: str
    client_secret: str = field(repr=False)
    resource: str
    token_url: str | None = None
    issuer: str | None = None
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """A streamable HTTP endpoint, and the headers (credentials included) that every request to it carries.

    `ca_file` has the only authorities believed, where it is set; `private_network` lets its name lead to addresses
    that are not public; `oauth` fetches tokens of our own.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    ca_file: Path | None = None
    private_network: bool = False
    oauth: OAuthClient | None = None


@dataclass(frozen=True, slots=True)
class MayAsk:
    """What an upstream may ask of the client in the middle of a call; `hosts` are those it may have a person open."""

    kinds: frozenset[Asks] = frozenset()
    hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """`identity` is what was written (references, never secrets); it is part of what people approve.

    `media` are the MIME types whose blobs of resources are let through. `handshake` has an upstream that speaks both eras
    speak the earlier one, in which a server asks while the call is open. `trace` tells it
    which trace a call is part of. `start_s` bounds starting, negotiating and listing; `message_bytes_max` one message from the upstream.
    """

    transport: StdioCommand | HttpEndpoint
    identity: Mapping[str, Any]
    start_s: float = 20.0
    message_bytes_max: int = 8 * 1024 * 1024
    errors_mean: ErrorsMean = ErrorsMean.IN_DOUBT
    media: frozenset[str] = frozenset()
    may_ask: MayAsk = MayAsk()
    handshake: bool = False
    trace: bool = False
