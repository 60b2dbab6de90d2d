"""`sources.NAME.mcp:` MCP servers of other people: what may be written, and what it stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from comptroller_policy.errors import Finding
from comptroller_server.config.paths import KeyPath, finding_at
from comptroller_server.config.web import check_scheme, read_url
from comptroller_server.config.yaml_lines import Node
from comptroller_tools.questions import Asks
from comptroller_tools.upstream.settings import (
    ErrorsMean,
    HttpEndpoint,
    MayAsk,
    OAuthClient,
    StdioCommand,
    UpstreamSettings,
)

__all__ = ["SECRET_PLACES", "McpConfig", "upstream_settings"]

SECRET_PLACES: tuple[KeyPath, ...] = (
    ("sources", "*", "mcp", "env", "*"),
    ("sources", "*", "mcp", "headers", "*"),
    ("sources", "*", "mcp", "bearer"),
    ("sources", "*", "mcp", "oauth", "client_secret"),
)
"""Where references to secrets are read. Never in `args`: any user of the machine can list those."""

_OF_URLS = ("headers", "bearer", "oauth", "ca_file", "private_network")
_SECRET = "secret://"  # noqa: S105 -- the scheme of references, not a secret
_LOADS_CODE = re.compile(r"LD_[A-Z_]+|DYLD_[A-Z_]+")
_OURS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept", "accept-encoding"}
)

EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
MimeType = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,127}$")]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


def _safe_url(url: str, example: str) -> str:
    parsed = read_url(url, example)
    check_scheme(parsed)
    if not parsed.host or parsed.userinfo or parsed.fragment:
        raise ValueError("it must be a host and a path; a credential belongs in `bearer`, as a reference")
    return url


class OAuthConfig(BaseModel):
    """`oauth:` a client that fetches tokens for itself (RFC 6749 §4.4); never for a caller.

    Without `token_url` the endpoint is found by metadata, of `issuer` where that is written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: str = Field(min_length=1, max_length=512)
    client_secret: str = Field(min_length=1)
    token_url: str | None = Field(default=None, min_length=1, max_length=2048)
    issuer: str | None = Field(default=None, min_length=1, max_length=2048)
    scope: str | None = Field(default=None, pattern=r"^[!#-\[\]-~]+( [!#-\[\]-~]+)*$", max_length=1024)
    resource: str | None = Field(default=None, min_length=1, max_length=2048)

    @field_validator("token_url", "issuer", "resource")
    @classmethod
    def _is_safe(cls, url: str | None) -> str | None:
        return url if url is None else _safe_url(url, "https://login.example.com/token")

    @model_validator(mode="after")
    def _one_place(self) -> OAuthConfig:
        if self.token_url is not None and self.issuer is not None:
            raise ValueError("`issuer` is for looking the endpoint up, and `token_url` says it; keep one")
        return self


class McpConfig(BaseModel):
    """An MCP server: a command that speaks on its standard streams, or the URL of a streamable HTTP endpoint.

    Values of `env` and `headers` may be `secret://` references, and `bearer` must be one. `errors_mean` says whether a
    side effect that the server answers with an error is in doubt, or known not to have been done. `media` are the types of binary resources that are let through unsearched.
    `may_ask` is what the server may ask of the client in the middle of a call, `open_hosts` where it may send its person;
    `protocol` has a server that speaks both eras speak the earlier one. `trace` tells it which trace a call is part of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str | None = Field(default=None, min_length=1, max_length=1024)
    args: tuple[str, ...] = Field(default=(), max_length=256)
    env: dict[EnvName, str] = Field(default_factory=dict, max_length=128)
    cwd: str | None = Field(default=None, min_length=1, max_length=4096)
    url: str | None = Field(default=None, min_length=1, max_length=2048)
    headers: dict[HeaderName, str] = Field(default_factory=dict, max_length=32)
    bearer: str | None = Field(default=None, min_length=1)
    oauth: OAuthConfig | None = None
    ca_file: str | None = Field(default=None, min_length=1, max_length=4096)
    private_network: bool = False
    start_s: float = Field(default=20, gt=0, le=600)
    message_kib_max: int = Field(default=8192, ge=1, le=65_536)
    errors_mean: ErrorsMean = ErrorsMean.IN_DOUBT
    media: tuple[MimeType, ...] = Field(default=(), max_length=64)
    may_ask: tuple[Asks, ...] = Field(default=(), max_length=4)
    open_hosts: tuple[HostName, ...] = Field(default=(), max_length=64)
    protocol: Literal["newest", "2025-11-25"] = "newest"
    trace: bool = False

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: str | None) -> str | None:
        return url if url is None else _safe_url(url, "https://mcp.example.com/mcp")

    @field_validator("headers")
    @classmethod
    def _are_theirs(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            folded = name.lower()
            if folded in _OURS or folded.startswith(("mcp-", "comptroller-")):
                raise ValueError(f"`{name}` is written by Comptroller itself; remove it")
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("two names differ by case only; keep one")
        return headers

    @field_validator("env")
    @classmethod
    def _loads_nothing(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if _LOADS_CODE.fullmatch(name):
                raise ValueError(
                    f"`{name}` would load code into the process that watches the server; remove it"
                )
        return env

    @model_validator(mode="after")
    def _one_transport(self) -> McpConfig:
        if (self.command is None) == (self.url is None):
            raise ValueError("it needs `command` or `url`, and only one of them")
        foreign = (
            [name for name in _OF_URLS if getattr(self, name)]
            if self.url is None
            else [name for name in ("args", "env", "cwd") if getattr(self, name)]
        )
        if foreign:
            kind = "command" if self.url is None else "url"
            raise ValueError(f"`{foreign[0]}` means nothing with `{kind}`; remove it")
        carried = [name for name in self.headers if name.lower() == "authorization"]
        credentials = [*carried, *(name for name in ("bearer", "oauth") if getattr(self, name))]
        if len(credentials) > 1:
            raise ValueError(f"`{credentials[0]}` and `{credentials[1]}` are one header; keep one")
        return self

    @model_validator(mode="after")
    def _opens_what_it_names(self) -> McpConfig:
        if (Asks.URL in self.may_ask) != bool(self.open_hosts):
            raise ValueError(
                "`may_ask: [elicitation_url]` and `open_hosts` go together; write both or neither"
            )
        return self


def upstream_settings(
    tree: Node,
    sources: Mapping[str, McpConfig],
    base_dir: Path,
    data_dir: Path,
    revealed: Callable[[str], str],
) -> tuple[dict[str, UpstreamSettings], tuple[str, ...], list[Finding]]:
    """The upstreams with their references resolved, the secret values found, and what is wrong.

    `revealed` gives the value behind a reference, and other text as it is; it raises an exception of its own.
    """
    found: dict[str, UpstreamSettings] = {}
    secrets: list[str] = []
    findings: list[Finding] = []
    for name, config in sources.items():
        values: dict[KeyPath, str] = {}
        for path, text in _references(config):
            try:
                values[path] = revealed(text)
            except Exception as wrong:  # noqa: BLE001 -- the reader's own, with a message for the field
                findings.append(finding_at(tree, ("sources", name, "mcp", *path), str(wrong)))
                continue
            if text.startswith(_SECRET):
                secrets.append(values[path])
            if path[0] in ("headers", "bearer") and not _fits_a_header(values[path]):
                message = "leads to a value that no HTTP header can hold; one line of plain ASCII"
                findings.append(finding_at(tree, ("sources", name, "mcp", *path), message))
        findings += [
            finding_at(tree, ("sources", name, "mcp", *path), text) for path, text in _open_secrets(config)
        ]
        if (wrong_file := _ca_problem(config, base_dir)) is not None:
            findings.append(finding_at(tree, ("sources", name, "mcp", "ca_file"), wrong_file))
        found[name] = _settings(name, config, values, base_dir, data_dir)
    return found, tuple(secrets), findings


def _references(config: McpConfig) -> Iterator[tuple[KeyPath, str]]:
    yield from ((("env", name), text) for name, text in config.env.items())
    yield from ((("headers", name), text) for name, text in config.headers.items())
    if config.bearer is not None:
        yield ("bearer",), config.bearer
    if config.oauth is not None:
        yield ("oauth", "client_secret"), config.oauth.client_secret


def _open_secrets(config: McpConfig) -> Iterator[tuple[KeyPath, str]]:
    """Credentials that stand in the file itself."""
    text = "must be a reference: write `secret://env/NAME` or `secret://file/PATH`"
    if config.bearer is not None and not config.bearer.startswith(_SECRET):
        yield ("bearer",), text
    if config.oauth is not None and not config.oauth.client_secret.startswith(_SECRET):
        yield ("oauth", "client_secret"), text
    for name, value in config.headers.items():
        if name.lower() in ("authorization", "cookie", "x-api-key") and not value.startswith(_SECRET):
            yield ("headers", name), text


def _ca_problem(config: McpConfig, base_dir: Path) -> str | None:
    if config.ca_file is None:
        return None
    import ssl

    try:
        ssl.create_default_context(cafile=str(base_dir / config.ca_file))
    except FileNotFoundError:
        return "names a file that is not there; the path starts at the config file"
    except OSError:  # ssl.SSLError is one
        return "has no certificates that can be read; it must be PEM"
    return None


def _endpoint(url: str, config: McpConfig, values: Mapping[KeyPath, str], base_dir: Path) -> HttpEndpoint:
    headers = {str(path[1]): value for path, value in values.items() if path[0] == "headers"}
    if ("bearer",) in values:
        headers["authorization"] = f"Bearer {values[('bearer',)]}"
    client = None
    if (oauth := config.oauth) is not None:
        secret = values.get(("oauth", "client_secret"), "")
        client = OAuthClient(
            oauth.client_id, secret, oauth.resource or url, oauth.token_url, oauth.issuer, oauth.scope
        )
    ca_file = base_dir / config.ca_file if config.ca_file is not None else None
    return HttpEndpoint(url, headers, ca_file, config.private_network, client)


def _fits_a_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _settings(
    name: str, config: McpConfig, values: Mapping[KeyPath, str], base_dir: Path, data_dir: Path
) -> UpstreamSettings:
    written: Any = config.model_dump(
        mode="json", exclude_defaults=True, exclude={"start_s", "message_kib_max", "media", "trace"}
    )
    transport: StdioCommand | HttpEndpoint
    if config.url is not None:
        transport = _endpoint(config.url, config, values, base_dir)
        identity = {"transport": "http", **written}
    else:
        assert config.command is not None
        own = config.cwd.replace("{data_dir}", str(data_dir)) if config.cwd is not None else None
        cwd = base_dir / own if own is not None else data_dir / "upstreams" / name
        # A path is one from the config file; a bare name is looked for along PATH.
        command = str(base_dir / config.command) if os.sep in config.command else config.command
        env = {str(path[1]): value for path, value in values.items() if path[0] == "env"}
        transport = StdioCommand(command, config.args, env, Path(os.path.normpath(cwd)))
        identity = {"transport": "stdio", **written}
    return UpstreamSettings(
        transport,
        identity,
        config.start_s,
        config.message_kib_max * 1024,
        config.errors_mean,
        frozenset(config.media),
        MayAsk(frozenset(config.may_ask), frozenset(host.lower() for host in config.open_hosts)),
        config.protocol != "newest",
        config.trace,
    )
