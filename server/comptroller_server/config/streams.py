"""`streams:` in the config: where copies of the record are sent to as they are written, and what those places need."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from comptroller_policy.errors import Finding
from comptroller_server.config.paths import KeyPath, finding_at
from comptroller_server.config.web import check_scheme, is_loopback, read_url
from comptroller_server.config.yaml_lines import Node

__all__ = [
    "SECRET_PLACES",
    "StreamConfig",
    "StreamFormat",
    "StreamName",
    "StreamSettings",
    "StreamSink",
    "stream_settings",
    "stream_warnings",
]

SECRET_PLACES: tuple[KeyPath, ...] = (("streams", "*", "secret"), ("streams", "*", "headers", "*"))
"""Where references to secrets are read."""
SECRET_CHARS_MIN = 16
_SECRET = "secret://"  # noqa: S105 -- the scheme of references, not a secret
_OURS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "idempotency-key"}
)  # fmt: skip
_CREDENTIALS = frozenset({"authorization", "cookie", "x-api-key", "api-key"})

StreamName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class StreamSink(StrEnum):
    """What takes the records."""

    FILE = "file"
    SYSLOG = "syslog"
    WEBHOOK = "webhook"
    OTLP = "otlp"


class StreamFormat(StrEnum):
    """What a record is written as: the entry with its released packet, or an OCSF event."""

    RECORD = "record"
    OCSF = "ocsf"


_NEEDS: Mapping[StreamSink, tuple[str, ...]] = {
    StreamSink.FILE: ("file",),
    StreamSink.SYSLOG: ("address",),
    StreamSink.WEBHOOK: ("url", "secret"),
    StreamSink.OTLP: ("url",),
}
_TAKES: Mapping[StreamSink, frozenset[str]] = {
    StreamSink.FILE: frozenset({"file", "rotate_mib", "keep_files"}),
    StreamSink.SYSLOG: frozenset({"address", "facility", "ca_file", "private_network"}),
    StreamSink.WEBHOOK: frozenset({"url", "secret", "headers", "ca_file", "private_network"}),
    StreamSink.OTLP: frozenset({"url", "headers", "ca_file", "private_network"}),
}
_OF_SOME: frozenset[str] = frozenset[str]().union(*_TAKES.values())


class StreamConfig(BaseModel):
    """One entry of `streams:`. `to` says what takes the records, and which of the other keys mean anything.

    `address` is `udp://HOST:PORT`, `tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:///PATH`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: StreamSink
    format: StreamFormat = StreamFormat.RECORD
    file: str | None = Field(default=None, min_length=1)
    rotate_mib: int = Field(default=64, ge=1, le=65_536)
    keep_files: int | None = Field(default=None, ge=1, le=100_000)
    address: str | None = Field(default=None, min_length=1, max_length=2048)
    facility: int = Field(default=13, ge=0, le=23)
    url: str | None = Field(default=None, min_length=1, max_length=2048)
    secret: str | None = Field(default=None, min_length=1)
    headers: dict[HeaderName, str] = Field(default_factory=dict, max_length=32)
    ca_file: str | None = Field(default=None, min_length=1, max_length=4096)
    private_network: bool = False
    batch_records_max: int = Field(default=100, ge=1, le=1000)
    interval_s: float = Field(default=1, gt=0, le=3600)
    timeout_s: float = Field(default=10, gt=0, le=300)
    retry_s_max: float = Field(default=300, gt=0, le=86_400)

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parsed = read_url(url, "https://logs.example.com/in")
        check_scheme(parsed)
        if not parsed.host or parsed.userinfo or parsed.fragment:
            raise ValueError(
                "it must be a host and a path; a credential belongs in `headers`, as a reference"
            )
        return url

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None:
            _read_address(address)
        return address

    @field_validator("headers")
    @classmethod
    def _are_theirs(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if name.lower() in _OURS or name.lower().startswith("webhook-"):
                raise ValueError(f"`{name}` is written by Comptroller itself; remove it")
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("two names differ by case only; keep one")
        return headers

    @model_validator(mode="after")
    def _fits_its_sink(self) -> StreamConfig:
        for name in _NEEDS[self.to]:
            if getattr(self, name) is None:
                raise ValueError(f"`to: {self.to.value}` needs `{name}`; add it")
        foreign = sorted((self.model_fields_set & _OF_SOME) - _TAKES[self.to])
        if foreign:
            raise ValueError(f"`{foreign[0]}` means nothing with `to: {self.to.value}`; remove it")
        if self.to is StreamSink.OTLP and self.format is not StreamFormat.RECORD:
            raise ValueError("`format` is for the other sinks; OTLP has a shape of its own")
        return self


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """A stream with paths absolute and references resolved. `host` and `port` are of syslog over a network."""

    name: str
    config: StreamConfig
    file: Path | None = None
    socket: Path | None = None
    scheme: str = ""
    host: str = ""
    port: int = 0
    ca_file: Path | None = None
    secret: SecretStr = field(default_factory=lambda: SecretStr(""))
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def place(self) -> str:
        """Where it leads, without credentials: a URL's query may hold one."""
        config = self.config
        if config.url is not None:
            return config.url.partition("?")[0]
        return config.address or str(self.file)


def _read_address(address: str) -> tuple[str, str, int, str]:
    """`(scheme, host, port, path)`. Raises `ValueError`."""
    text = "it must be `udp://HOST:PORT`, `tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:///PATH`"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ValueError(text) from None
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(text)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return "unix", "", 0, parts.path
    if parts.scheme in ("udp", "tcp", "tls") and parts.hostname and port and parts.path in ("", "/"):
        return parts.scheme, parts.hostname, port, ""
    raise ValueError(text)


def stream_settings(
    tree: Node,
    streams: Mapping[str, StreamConfig],
    base_dir: Path,
    taken: Collection[Path],
    path_of: Callable[[str], Path],
    revealed: Callable[[str], str],
) -> tuple[dict[str, StreamSettings], tuple[str, ...], list[Finding]]:
    """The streams as they are served, the secret values among them, and what is wrong.

    `taken` are files that are something else already. `path_of` and `revealed` raise an exception of their own.
    """
    found: dict[str, StreamSettings] = {}
    secrets: list[str] = []
    findings: list[Finding] = []
    files = set(taken)
    for name, config in streams.items():
        values: dict[KeyPath, str] = {}
        for path, text in _references(config):
            try:
                values[path] = revealed(text)
            except Exception as wrong:  # noqa: BLE001 -- the reader's own, with a message for the field
                findings.append(finding_at(tree, ("streams", name, *path), str(wrong)))
                continue
            if text.startswith(_SECRET):
                secrets.append(values[path])
        file: Path | None = None
        try:
            file = path_of(config.file) if config.file is not None else None
        except Exception as wrong:  # noqa: BLE001 -- likewise
            findings.append(finding_at(tree, ("streams", name, "file"), str(wrong)))
        problems = [*_problems(config, values, base_dir)]
        if file is not None:
            if file in files:
                problems.append((("file",), "is the file of something else already; name a file of its own"))
            files.add(file)
        findings += [finding_at(tree, ("streams", name, *path), text) for path, text in problems]
        found[name] = _settings(name, config, values, base_dir, file)
    return found, tuple(secrets), findings


def _references(config: StreamConfig) -> Iterator[tuple[KeyPath, str]]:
    yield from ((("headers", name), text) for name, text in config.headers.items())
    if config.secret is not None:
        yield ("secret",), config.secret


def _problems(
    config: StreamConfig, values: Mapping[KeyPath, str], base_dir: Path
) -> Iterator[tuple[KeyPath, str]]:
    text = "must be a reference: write `secret://env/NAME` or `secret://file/PATH`"
    if config.secret is not None and not config.secret.startswith(_SECRET):
        yield ("secret",), text
    elif len(values.get(("secret",), "x" * SECRET_CHARS_MIN)) < SECRET_CHARS_MIN:
        yield ("secret",), f"leads to a value under {SECRET_CHARS_MIN} characters, which can be guessed"
    for name, value in config.headers.items():
        if name.lower() in _CREDENTIALS and not value.startswith(_SECRET):
            yield ("headers", name), text
    for path, value in values.items():
        if path[0] == "headers" and not (value.isascii() and value.isprintable()):
            yield path, "leads to a value that no HTTP header can hold; one line of plain ASCII"
    if config.ca_file is not None:
        import ssl

        try:
            ssl.create_default_context(cafile=str(base_dir / config.ca_file))
        except FileNotFoundError:
            yield ("ca_file",), "names a file that is not there; the path starts at the config file"
        except OSError:  # ssl.SSLError is one
            yield ("ca_file",), "has no certificates that can be read; it must be PEM"


def _settings(
    name: str, config: StreamConfig, values: Mapping[KeyPath, str], base_dir: Path, file: Path | None
) -> StreamSettings:
    scheme, host, port, path = (
        _read_address(config.address) if config.address is not None else ("", "", 0, "")
    )
    return StreamSettings(
        name,
        config,
        file,
        Path(path) if path else None,
        scheme,
        host,
        port,
        base_dir / config.ca_file if config.ca_file is not None else None,
        SecretStr(values.get(("secret",), "")),
        {str(path[1]): value for path, value in values.items() if path[0] == "headers"},
    )


def stream_warnings(streams: Mapping[str, StreamSettings]) -> Iterator[Finding]:
    """What is allowed and unwise."""
    for name, stream in streams.items():
        where = f"streams.{name}.address"
        if stream.scheme == "udp":
            yield Finding(
                where,
                "goes over UDP: what is lost on the way is not sent again, and nobody is told; use `tls://`",
            )
        if stream.scheme in ("udp", "tcp") and not is_loopback(stream.host):
            yield Finding(
                where, "goes over a network in the clear, for anybody on the way to read; use `tls://`"
            )
