"""Where connections over HTTP may lead: names are resolved here, and only to addresses that the config allows.

The address that was judged is the one connected to, so a name that leads elsewhere a moment later gains nothing. TLS is
verified for the name, always.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import httpcore2
import httpx2

from comptroller_tools.upstream.settings import HttpEndpoint

__all__ = ["NOT_PUBLIC", "Reach", "allowed", "reach_of", "transport_to"]

POOL_MAX = 64
KEPT_MAX = 16
NOT_PUBLIC = "its name leads to no address that may be talked to; `private_network: true` allows private ones"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Reach:
    """Whom to believe, and where names may lead: `screened` is asked for every connection, whoever makes it."""

    trust: ssl.SSLContext
    screened: _Screened

    async def addresses(self, host: str, port: int) -> list[str]:
        """Those that a host may be reached at. Raises `httpcore2.ConnectError`."""
        return await self.screened.addresses(host, port)


def reach_of(endpoint: HttpEndpoint) -> Reach:
    """What holds for the endpoint and for where its tokens come from. Raises OSError, ssl.SSLError."""
    written = [endpoint.url]
    if endpoint.oauth is not None:
        written += [url for url in (endpoint.oauth.token_url, endpoint.oauth.issuer) if url is not None]
    hosts = frozenset(httpx2.URL(url).host for url in written)
    return Reach(_trust(endpoint, written), _Screened(hosts, endpoint.private_network))


def transport_to(reach: Reach) -> httpx2.AsyncHTTPTransport:
    """Pooled, kept connections."""
    trust = reach.trust
    limits = httpx2.Limits(max_connections=POOL_MAX, max_keepalive_connections=KEPT_MAX)
    transport = httpx2.AsyncHTTPTransport(verify=trust, limits=limits, trust_env=False)
    # The one way to choose the address: the transport takes no backend of its own.
    transport._pool = httpcore2.AsyncConnectionPool(  # pyright: ignore[reportPrivateUsage]
        ssl_context=trust,
        max_connections=POOL_MAX,
        max_keepalive_connections=KEPT_MAX,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=reach.screened,
    )
    return transport


def _trust(endpoint: HttpEndpoint, written: Iterable[str]) -> ssl.SSLContext:
    if endpoint.ca_file is not None:
        return ssl.create_default_context(cafile=str(endpoint.ca_file))
    if all(url.startswith("http://") for url in written):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and costs no reading of certificates
    return httpx2.create_ssl_context(trust_env=False)


class _Screened(httpcore2.AsyncNetworkBackend):
    """`written` are the hosts of the config: an address among them is allowed by being written there."""

    def __init__(self, written: frozenset[str], private: bool) -> None:
        self._inner = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())
        self._written = written
        self._private = private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- the interface's own
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        *others, last = await self.addresses(host, port)
        for address in others:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._inner.connect_tcp(last, port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def addresses(self, host: str, port: int) -> list[str]:
        host = host.strip("[]")
        literal = _address(host)
        if literal is not None:
            found = [host] if host in self._written or allowed(literal, self._private) else []
        else:
            found = [one for one in await _resolved(host, port) if self._may(host, one)]
        if not found:
            raise httpcore2.ConnectError(NOT_PUBLIC)
        return found

    def _may(self, host: str, text: str) -> bool:
        address = _address(text)
        if address is None:
            return False
        if host == "localhost":
            return address.is_loopback
        return allowed(address, self._private)


def allowed(address: Address, private: bool) -> bool:
    """Whether a name may lead there: to public addresses, and to private ones where the config says so.

    Never to this machine, to link-local addresses (where clouds keep credentials) or to several machines at once.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is None and address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return allowed(inside, private)
    if (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
    ):
        return False
    return address.is_global or (private and address.is_private)


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


async def _resolved(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise httpcore2.ConnectError("its name is not known") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
