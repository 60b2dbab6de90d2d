"""`telemetry:` where spans of calls go, whether metrics are served, and how logs are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from comptroller_server.config.paths import KeyPath
from comptroller_server.config.web import HttpConfig, check_scheme, read_url

__all__ = [
    "TELEMETRY_SECRETS",
    "LogFormat",
    "MetricsConfig",
    "TelemetryConfig",
    "TelemetrySecrets",
    "TracesConfig",
    "telemetry_findings",
]

TELEMETRY_SECRETS: tuple[KeyPath, ...] = (
    ("telemetry", "traces", "headers", "*"),
    ("telemetry", "metrics", "token"),
)
"""Where references to secrets are read."""
_OURS = frozenset(
    {"content-type", "content-length", "content-encoding", "host", "connection", "transfer-encoding"}
)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")

HeaderReference = Annotated[str, Field(min_length=1, max_length=1024)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LogFormat(StrEnum):
    """How lines on standard error are written."""

    TEXT = "text"
    JSON = "json"


class TracesConfig(_Section):
    """`telemetry.traces:` the whole URL that spans are posted to as OTLP, and which share of traces.

    The values of `headers` are references.
    """

    endpoint: str = Field(min_length=1, max_length=2048)
    headers: dict[str, HeaderReference] = Field(default_factory=dict, max_length=16)
    sample: float = Field(default=1.0, ge=0, le=1)

    @field_validator("endpoint")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        parsed = read_url(url, "https://collector.example.com/v1/traces")
        check_scheme(parsed)
        if not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
            raise ValueError("it must be a host and a path alone; a key belongs in `headers`, as a reference")
        if parsed.path in ("", "/"):
            raise ValueError("it has no path; OTLP collectors take spans at `/v1/traces`")
        return url

    @field_validator("headers")
    @classmethod
    def _are_names(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _HEADER.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(
                    f"`{name[:40]}` is no header to set; use the name that your collector asks for"
                )
        return headers


class MetricsConfig(_Section):
    """`telemetry.metrics:` whether `/metrics` is there on HTTP, and the bearer token it asks for."""

    prometheus: bool = False
    token: str | None = Field(default=None, min_length=1, max_length=1024)


class TelemetryConfig(_Section):
    """`telemetry:` what others may watch. None of it decides anything, so it is no part of the bundle's digest."""

    traces: TracesConfig | None = None
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    logs: LogFormat = LogFormat.TEXT


@dataclass(frozen=True, slots=True)
class TelemetrySecrets:
    """The values behind the references of `telemetry`."""

    headers: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr])
    token: SecretStr | None = None

    @property
    def values(self) -> tuple[str, ...]:
        held = [*self.headers.values(), *([self.token] if self.token is not None else [])]
        texts = [one.get_secret_value() for one in held]
        # The key of `Bearer KEY` is a secret without the word before it, too.
        return tuple(
            part for text in texts for part in dict.fromkeys((text, text.rpartition(" ")[2])) if part
        )


def telemetry_findings(telemetry: TelemetryConfig, http: HttpConfig) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with `telemetry` beside other sections."""
    metrics = telemetry.metrics
    if metrics.prometheus and metrics.token is None and http.public_url is not None:
        text = "would be on the address that `http.public_url` makes public; give `telemetry.metrics.token`"
        yield ("telemetry", "metrics", "prometheus"), text
    if metrics.token is not None and not metrics.prometheus:
        yield ("telemetry", "metrics", "token"), "guards nothing; add `prometheus: true` or remove it"
