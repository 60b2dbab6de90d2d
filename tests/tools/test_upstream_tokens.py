"""Tokens of our own for an upstream, its certificate, and where its name may lead, against a real server on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpcore2
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from comptroller_tools.source import Action, EffectHappened, Outcome
from comptroller_tools.upstream import reaching, tokens
from comptroller_tools.upstream.definitions import Written
from comptroller_tools.upstream.link import Unreachable
from comptroller_tools.upstream.settings import HttpEndpoint, OAuthClient, UpstreamSettings
from comptroller_tools.upstream.source import UpstreamSource
from tests.tools.test_upstream_http import Elsewhere, Scope, answer_with, open_server

pytestmark = pytest.mark.anyio

SECRET = "s3cret:with/signs"
DONE, NONE = EffectHappened.DONE, EffectHappened.NONE


class Guarded(Elsewhere):
    """An upstream that takes only tokens it gave out itself, and says where to get them."""

    def __init__(self) -> None:
        super().__init__("modern")
        self.asked: list[dict[str, str]] = []
        self.basic: list[str] = []
        self.life: Any = 3600
        self.status = 200
        self.taken: set[str] = set()
        self.issuer: str | None = None
        self.methods: list[str] | None = None
        self.looked_up: list[str] = []
        self.refused = 0
        self.redirects = False
        self.forgets = False

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or path == "/mcp":
            given = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
            if scope["type"] == "http" and given.removeprefix("Bearer ") not in self.taken:
                self.refused += 1
                await answer_with(send, 401, b"{}")
                return
            await super().__call__(scope, receive, send)
        elif path == "/token":
            await self._give(scope, receive, send)
        else:
            self.looked_up.append(path)
            found = self._metadata().get(path)
            await answer_with(send, 404 if found is None else 200, json.dumps(found).encode())

    def _metadata(self) -> dict[str, Any]:
        issuer = self.issuer or self.origin
        server: dict[str, Any] = {"issuer": self.origin, "token_endpoint": f"{self.origin}/token"}
        if self.methods is not None:
            server["token_endpoint_auth_methods_supported"] = self.methods
        return {
            "/.well-known/oauth-protected-resource/mcp": {
                "resource": self.url,
                "authorization_servers": [issuer],
            },
            "/.well-known/oauth-authorization-server": server,
        }

    async def _give(self, scope: Scope, receive: Any, send: Any) -> None:
        body = (await receive())["body"].decode()
        self.asked.append({key: value[0] for key, value in parse_qs(body).items()})
        self.basic.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        if self.redirects:
            await answer_with(send, 307, b"", [(b"location", b"/elsewhere")])
            return
        if self.status != 200:
            await answer_with(
                send, self.status, b'{"error": "invalid_client", "error_description": "s3cret"}'
            )
            return
        token = f"token-{len(self.asked)}"
        if not self.forgets:
            self.taken.add(token)
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.life}
        await answer_with(send, 200, json.dumps(answer).encode())


@pytest.fixture
async def guarded() -> AsyncGenerator[Guarded]:
    made = Guarded()
    async with open_server(made):
        yield made


@contextlib.asynccontextmanager
async def governed(elsewhere: Elsewhere, url: str = "", **more: Any) -> AsyncGenerator[UpstreamSource]:
    """A source that fetches tokens from the server itself unless told otherwise."""
    oauth = {"client_id": "us", "client_secret": SECRET, "resource": elsewhere.url, **more.pop("oauth", {})}
    client = OAuthClient(**oauth) if isinstance(elsewhere, Guarded) else None
    endpoint = HttpEndpoint(url or elsewhere.url, oauth=client, **more)
    settings = UpstreamSettings(endpoint, {"transport": "http"})
    first = UpstreamSource("elsewhere", settings, {})
    try:
        pins: dict[str, Written] = (await first.listing()).tools
    finally:
        await first.close()
    source = UpstreamSource("elsewhere", settings, pins)
    try:
        yield source
    finally:
        await source.close()


async def call(source: UpstreamSource, path: str = "a") -> Outcome:
    return await source.call(Action("write", {"path": path}, "key"), time.monotonic() + 20)


async def test_a_token_is_fetched_once_for_many_calls_and_says_who_and_what_for(guarded: Guarded) -> None:
    told = {"token_url": f"{guarded.origin}/token", "scope": "files.write"}
    async with governed(guarded, oauth=told) as source:
        before = len(guarded.asked)
        ends = await asyncio.gather(*(call(source, str(at)) for at in range(12)))
        assert {end.effect for end in ends} == {DONE}
        assert len(guarded.asked) == before + 1
    assert guarded.asked[0] == {
        "grant_type": "client_credentials",
        "resource": guarded.url,
        "scope": "files.write",
    }
    pair = base64.b64decode(guarded.basic[0].removeprefix("Basic ")).decode()
    assert pair == "us:s3cret%3Awith%2Fsigns"
    assert {headers["authorization"] for headers in guarded.headers} == {f"Bearer token-{before + 1}"}
    assert guarded.looked_up == []


async def test_a_token_that_is_about_to_end_is_replaced_before_it_is_used(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(tokens, "monotonic", lambda: now[0])
    http = httpx2.AsyncClient(trust_env=False)
    client = OAuthClient("us", SECRET, guarded.url, f"{guarded.origin}/token")
    kept = tokens.Tokens(client, guarded.url)
    async with http:
        assert [await kept.bearer(http) for _ in range(2)] == ["token-1", "token-1"]
        now[0] += 3600 - tokens.MARGIN_S - 1
        assert await kept.bearer(http) == "token-1"
        now[0] += 2
        assert await kept.bearer(http) == "token-2"


async def test_a_token_that_was_withdrawn_costs_one_more_try_and_the_call_runs_once(guarded: Guarded) -> None:
    async with governed(guarded, oauth={"token_url": f"{guarded.origin}/token"}) as source:
        await call(source, "first")
        guarded.taken.clear()
        assert (await call(source, "second")).effect is DONE
        assert guarded.ran == ["first", "second"]
        guarded.taken.clear()
        guarded.status = 401
        outcome = await call(source, "third")
        assert (outcome.effect, outcome.meta.get("temporary")) == (NONE, True)
        assert outcome.error is not None
        assert "invalid_client" in outcome.error
        assert "s3cret" not in outcome.error
        asked = len(guarded.asked)
        await call(source, "fourth")
        assert len(guarded.asked) == asked, "a failure is not asked for again at once"
    assert guarded.ran == ["first", "second"]


async def test_an_upstream_that_takes_no_token_at_all_is_asked_twice_and_no_more(guarded: Guarded) -> None:
    async with governed(guarded, oauth={"token_url": f"{guarded.origin}/token"}) as source:
        await call(source, "first")
        guarded.taken.clear()
        guarded.forgets = True
        before = guarded.refused
        assert (await call(source, "second")).effect is NONE
        assert guarded.refused == before + 2
    assert guarded.ran == ["first"]


async def test_the_token_endpoint_is_found_by_metadata(guarded: Guarded) -> None:
    guarded.methods = ["client_secret_post"]
    async with governed(guarded) as source:
        assert (await call(source)).effect is DONE
    assert guarded.looked_up[:2] == [
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
    ]
    assert (guarded.asked[0]["client_id"], guarded.asked[0]["client_secret"]) == ("us", SECRET)
    assert set(guarded.basic) == {""}


async def test_an_upstream_does_not_choose_who_gets_our_secret(guarded: Guarded) -> None:
    guarded.issuer = "https://login.evil.example"
    with pytest.raises(Unreachable, match=r"login\.evil\.example.*write `oauth\.issuer`"):
        async with governed(guarded):
            pass
    assert guarded.asked == []


async def test_metadata_count_only_for_the_issuer_that_they_name(guarded: Guarded) -> None:
    with pytest.raises(Unreachable, match="those of somebody else"):
        async with governed(guarded, oauth={"issuer": f"{guarded.origin}/"}):
            pass
    assert guarded.asked == []


async def test_a_token_endpoint_that_redirects_is_not_followed(guarded: Guarded) -> None:
    guarded.redirects = True
    with pytest.raises(Unreachable, match="HTTP 307"):
        async with governed(guarded, oauth={"token_url": f"{guarded.origin}/token"}):
            pass
    assert (len(guarded.asked), guarded.looked_up) == (1, [])


async def test_a_token_that_the_upstream_sends_back_is_withheld(guarded: Guarded) -> None:
    @guarded.app.tool()
    def echo() -> str:
        """Say what you got."""
        return guarded.headers[-1]["authorization"]

    async with governed(guarded, oauth={"token_url": f"{guarded.origin}/token"}) as source:
        outcome = await source.call(Action("echo", {}, "key"), time.monotonic() + 20)
    assert outcome.value == {"result": "Bearer (withheld)"}


# -- TLS and addresses --------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> dict[str, Path]:
    """A certificate for 127.0.0.1 that signs itself, as a server needs it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return {"ssl_certfile": cert, "ssl_keyfile": private}


async def test_a_certificate_is_believed_only_from_the_authorities_that_are_named(tmp_path: Path) -> None:
    tls, other = certificate(tmp_path, "ours"), certificate(tmp_path, "other")
    elsewhere = Elsewhere("modern")
    async with open_server(elsewhere, tls=tls):
        async with governed(elsewhere, ca_file=tls["ssl_certfile"]) as source:
            assert (await call(source)).effect is DONE
        for ca_file in (None, other["ssl_certfile"]):
            with pytest.raises(Unreachable, match="could not be reached"):
                async with governed(elsewhere, ca_file=ca_file):
                    pass
    assert elsewhere.ran == ["a"]


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1::1", True, True),
        ("10.1.2.3", False, True),
        ("192.168.0.1", False, True),
        ("fd00::1", False, True),
        ("::ffff:10.1.2.3", False, True),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, False),  # noqa: S104 -- an address to be refused
        ("169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:7f00:1::", False, False),
        ("224.0.0.1", False, False),
        ("255.255.255.255", False, False),
        ("100.64.0.1", False, False),
    ],
)
def test_a_name_leads_to_public_addresses_and_to_private_ones_with_leave(
    address: str, public: bool, private: bool
) -> None:
    read = ipaddress.ip_address(address)
    assert (reaching.allowed(read, False), reaching.allowed(read, True)) == (public, private)


@pytest.mark.parametrize("leave", [False, True])
async def test_a_name_that_leads_to_this_machine_is_not_followed_there(
    monkeypatch: pytest.MonkeyPatch, leave: bool
) -> None:
    elsewhere = Elsewhere("modern")
    looked: list[str] = []

    async def rebound(host: str, port: int) -> list[str]:
        looked.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(reaching, "_resolved", rebound)
    async with open_server(elsewhere):
        url = elsewhere.url.replace("127.0.0.1", "files.example.com")
        with pytest.raises(Unreachable, match="may be talked to"):
            async with governed(elsewhere, url, private_network=leave):
                pass
        async with governed(elsewhere, elsewhere.url.replace("127.0.0.1", "localhost")) as source:
            assert (await call(source)).effect is DONE
    assert set(looked) == {"files.example.com", "localhost"}
    assert elsewhere.ran == ["a"]


async def test_connections_are_kept_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Elsewhere("modern")
    opened: list[int] = []
    backend: Any = httpcore2.AnyIOBackend
    inner = backend.connect_tcp

    async def counted(self: Any, host: str, port: int, *more: Any) -> Any:
        opened.append(port)
        return await inner(self, host, port, *more)

    monkeypatch.setattr(backend, "connect_tcp", counted)
    async with open_server(elsewhere), governed(elsewhere) as source:
        await call(source, "first")
        before = len(opened)
        for at in range(5):
            assert (await call(source, str(at))).effect is DONE
        assert len(opened) == before
