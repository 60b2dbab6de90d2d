"""Access tokens of our own for an upstream, by OAuth client credentials: fetched once, kept until shortly before they end.

The token endpoint is written in the config, or found in metadata: of the upstream (RFC 9728) and of the authorization
server (RFC 8414). An upstream cannot choose who gets our secret: a server of another origin than its own counts only
when the config names it as `issuer`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from dataclasses import replace
from time import monotonic
from typing import Any, cast
from urllib.parse import quote_plus

import httpx2

from comptroller_tools.source import Outcome
from comptroller_tools.upstream.settings import OAuthClient

__all__ = ["NoToken", "Tokens"]

ANSWER_BYTES_MAX = 65_536
ANSWER_S = 15.0
LIFE_S = 300.0
"""Of a token whose server does not say."""
MARGIN_S = 30.0
"""Before it ends a token is replaced; at most a fifth of its life."""
FAILED_S = 2.0
"""For so long a failure is the answer, without asking again."""
LIFE_S_MAX = 30 * 86_400
"""A longer life than that is not believed: no number from outside may be too large to reckon with."""
KEPT = 4
"""So many of the last tokens are looked for in answers."""
WITHHELD = "(withheld)"
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
_METADATA = ("oauth-authorization-server", "openid-configuration")


class NoToken(Exception):
    """There is no token and nothing was sent. The text is for operators, and holds nothing of what was answered."""


class Tokens:
    """The tokens for one upstream. Safe to use from many calls at once: one asks, the others wait for it."""

    def __init__(self, client: OAuthClient, endpoint: str) -> None:
        self._client = client
        self._endpoint = httpx2.URL(endpoint)
        self._lock = asyncio.Lock()
        self._token: str | None = None
        self._until = 0.0
        self._token_url = client.token_url
        self._by_post = False
        self._seen: list[str] = []
        self._failed: tuple[float, str] | None = None

    async def bearer(self, http: httpx2.AsyncClient) -> str:
        """A token that is good for a while. Raises `NoToken`."""
        if (kept := self._kept()) is not None:
            return kept
        async with self._lock:
            if (kept := self._kept()) is not None:
                return kept
            if self._failed is not None and monotonic() < self._failed[0]:
                raise NoToken(self._failed[1])
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await self._fetch(http)
            except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL) as error:
                why = f"no token could be fetched ({type(error).__name__})"
            except NoToken as error:
                why = str(error)
            self._failed = (monotonic() + FAILED_S, why)
            raise NoToken(why)

    def refused(self, token: str) -> None:
        """The upstream does not take this one. A newer one that somebody fetched meanwhile stays."""
        if self._token == token:
            self._token = None

    def without(self, outcome: Outcome) -> Outcome:
        """The outcome without any token of ours that the upstream sent back."""
        if not self._seen:
            return outcome
        value, told = _withheld(outcome.value, self._seen), outcome.told_model
        told = _withheld(told, self._seen) if told is not None else None
        return replace(outcome, value=value, told_model=told)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _kept(self) -> str | None:
        return self._token if monotonic() < self._until else None

    async def _fetch(self, http: httpx2.AsyncClient) -> str:
        url = self._token_url or await self._found(http)
        client = self._client
        form = {"grant_type": "client_credentials", "resource": client.resource}
        if client.scope is not None:
            form["scope"] = client.scope
        headers = {"accept": "application/json"}
        if self._by_post:
            form |= {"client_id": client.client_id, "client_secret": client.client_secret}
        else:
            pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        status, answer = await _asked(http, http.build_request("POST", url, data=form, headers=headers))
        if status != 200:
            said = answer.get("error")
            code = said if isinstance(said, str) and _ERROR_CODE.fullmatch(said) else "no reason"
            raise NoToken(f"its token endpoint refused (HTTP {status}, {code})")
        token, kind, life = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
        if not isinstance(token, str) or _TOKEN.fullmatch(token) is None or str(kind).lower() != "bearer":
            raise NoToken("its token endpoint answered without a bearer token")
        life_s = (
            min(max(0, life), LIFE_S_MAX) if isinstance(life, int) and not isinstance(life, bool) else LIFE_S
        )
        self._until = monotonic() + life_s - min(MARGIN_S, life_s / 5)
        self._token, self._failed = token, None
        self._seen = [token, *self._seen][:KEPT]
        return token

    async def _found(self, http: httpx2.AsyncClient) -> str:
        """The token endpoint by metadata, kept from then on. Raises `NoToken`."""
        issuer = self._client.issuer or await self._named_by_upstream(http)
        parsed = httpx2.URL(issuer)
        for kind in _METADATA:
            path = f"/.well-known/{kind}{parsed.path.rstrip('/')}"
            status, answer = await _asked(http, http.build_request("GET", _at(parsed, path)))
            if status == 200:
                break
        else:
            raise NoToken(f"{issuer} publishes no metadata; write `oauth.token_url`")
        if answer.get("issuer") != issuer:
            raise NoToken(f"the metadata of {issuer} are those of somebody else")
        url = answer.get("token_endpoint")
        if not isinstance(url, str) or not _is_safe(httpx2.URL(url), parsed):
            raise NoToken(f"{issuer} names no token endpoint under https")
        methods = answer.get("token_endpoint_auth_methods_supported")
        self._by_post = isinstance(methods, list) and "client_secret_basic" not in methods
        self._token_url = url
        return url

    async def _named_by_upstream(self, http: httpx2.AsyncClient) -> str:
        for path in dict.fromkeys((self._endpoint.path.rstrip("/"), "")):
            where = _at(self._endpoint, f"/.well-known/oauth-protected-resource{path}")
            status, answer = await _asked(http, http.build_request("GET", where))
            if status != 200:
                continue
            if answer.get("resource") not in (str(self._endpoint), _at(self._endpoint, path)):
                raise NoToken("its metadata are those of another resource")
            servers = answer.get("authorization_servers")
            first = cast("list[object]", servers)[0] if isinstance(servers, list) and servers else None
            if not isinstance(first, str):
                raise NoToken("its metadata name no authorization server; write `oauth.token_url`")
            if _origin(httpx2.URL(first)) != _origin(self._endpoint):
                host = httpx2.URL(first).host[:200]
                raise NoToken(
                    f"it wants tokens of another server, {host!r}; if that is right, write `oauth.issuer` (it gets the "
                    "client's secret)"
                )
            return first
        raise NoToken("it publishes no metadata; write `oauth.token_url` or `oauth.issuer`")


async def _asked(http: httpx2.AsyncClient, request: httpx2.Request) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of an answer, empty where it is none. Redirects are not followed."""
    response = await http.send(request, stream=True, follow_redirects=False)
    body = b""
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > ANSWER_BYTES_MAX:
                raise NoToken("an answer about tokens is too large")
    finally:
        await response.aclose()
    try:
        read: Any = json.loads(body)
    except (ValueError, RecursionError):
        read = None
    return response.status_code, cast("dict[str, Any]", read) if isinstance(read, dict) else {}


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"https": 443, "http": 80}.get(url.scheme)


def _at(url: httpx2.URL, path: str) -> str:
    return f"{url.scheme}://{url.netloc.decode()}{path}"


def _is_safe(url: httpx2.URL, issuer: httpx2.URL) -> bool:
    """`https`, or exactly where the issuer is: what may be plain there has been judged with the config."""
    return url.scheme == "https" or _origin(url) == _origin(issuer)


def _withheld(value: Any, tokens: list[str]) -> Any:
    if isinstance(value, str):
        for token in tokens:
            value = value.replace(token, WITHHELD)
        return value
    if isinstance(value, list):
        return [_withheld(one, tokens) for one in cast("list[object]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {_withheld(name, tokens): _withheld(one, tokens) for name, one in members.items()}
    return value
