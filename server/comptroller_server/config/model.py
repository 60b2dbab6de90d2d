"""What `comptroller.yaml` may say, as frozen models, and the `Config` that loading it makes.

`Document` is the text as written; its models are the published grammar (`config_json_schema`). `Config` is what
the rest of the server uses: paths absolute, references resolved, policy files read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from sqlalchemy.engine import make_url

from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_budgets.limits import BudgetsConfig
from comptroller_budgets.prices import ModelPrice
from comptroller_policy.declarations import ClientWord, Name, RolloutMode
from comptroller_policy.errors import Finding
from comptroller_policy.model import PolicyFile
from comptroller_policy.observing import Mode
from comptroller_policy.rollout import configured_percent
from comptroller_server.call.traces import TraceLevel, trace_levels
from comptroller_server.config.judges import JudgeConfig
from comptroller_server.config.paths import parsed_path, shown_path
from comptroller_server.config.safety import RetrievalConfig, SafetyConfig
from comptroller_server.config.streams import StreamConfig, StreamName, StreamSettings
from comptroller_server.config.tasks import TasksConfig
from comptroller_server.config.telemetry import TelemetryConfig, TelemetrySecrets
from comptroller_server.config.upstreams import McpConfig
from comptroller_server.config.web import HttpConfig
from comptroller_server.config.yaml_lines import Node
from comptroller_tools.declarations import BreakerConfig, ToolConfig
from comptroller_tools.upstream.pins import Pins
from comptroller_tools.upstream.settings import UpstreamSettings

__all__ = [
    "AgentConfig",
    "ApprovalsConfig",
    "ClientConfig",
    "Config",
    "Document",
    "IdentityConfig",
    "LimitsConfig",
    "LocalIdentityConfig",
    "LoggingConfig",
    "RetrievalConfig",
    "RolloutConfig",
    "SafetyConfig",
    "SourceConfig",
    "StoreSettings",
    "config_json_schema",
]

ClientName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$")]
PythonTarget = Annotated[
    str,
    Field(pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:{}]+\.py)(:[A-Za-z_]\w*)?$", max_length=1024),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AgentConfig(_Section):
    """`agent:` what the governed agent is and is for; shown to people who approve."""

    name: str = Field(default="agent", min_length=1, max_length=64)
    objective: str = Field(default="", max_length=2000)


class KeysConfig(_Section):
    """`store.keys:` the file of the key ring that seals payloads; made with mode 0600 when missing."""

    file: str = Field(default="{data_dir}/keys.json", min_length=1)


class CheckpointConfig(_Section):
    """One entry of `store.checkpoints:`, a place for signed checkpoints outside the database."""

    file: str = Field(min_length=1)


class StoreConfig(_Section):
    """`store:` the database. `url` may be a `secret://` reference."""

    url: str = Field(default="sqlite:///{data_dir}/comptroller.db", min_length=1)
    keys: KeysConfig = Field(default_factory=KeysConfig)
    checkpoints: tuple[CheckpointConfig, ...] = (CheckpointConfig(file="{data_dir}/checkpoints.log"),)
    checkpoint_interval_s: float = Field(default=10, gt=0, le=3600)


class ClientConfig(_Section):
    """One local client. `interactive` says that a person sits at it and can be asked.

    An `orchestrator` hands out the work: it may keep several begun tasks open, and over HTTP, where its token proves
    it, the request it gives a task is recorded as trusted.
    """

    interactive: bool = False
    orchestrator: bool = False


class LocalIdentityConfig(_Section):
    """`identity.local:` the one person of a local store. `subject` defaults to the user id of the process."""

    subject: str | None = Field(default=None, pattern=r"^[^\s|]{1,128}$")
    roles: tuple[Name, ...] = ()
    clients: dict[ClientName, ClientConfig] = Field(default_factory=lambda: {"default": ClientConfig()})

    @property
    def effective_subject(self) -> str:
        return self.subject if self.subject is not None else str(os.getuid())


class IdentityConfig(_Section):
    """`identity:` who calls. This version knows local identity only."""

    local: LocalIdentityConfig = Field(default_factory=LocalIdentityConfig)


class SourceConfig(_Section):
    """One entry of `sources:`: Python functions, or an MCP server.

    `python` is a module, `module:function`, or a `.py` file relative to the config file. `trusted` says whether what is
    read there may be believed (`provenance`): functions are, MCP servers are not, unless it says otherwise.
    """

    python: PythonTarget | None = None
    mcp: McpConfig | None = None
    trusted: bool | None = None
    breaker: BreakerConfig = Field(default_factory=BreakerConfig)

    @property
    def is_trusted(self) -> bool:
        return self.mcp is None if self.trusted is None else self.trusted

    @model_validator(mode="after")
    def _one_kind(self) -> SourceConfig:
        if (self.python is None) == (self.mcp is None):
            raise ValueError("it needs `python` or `mcp`, and only one of them")
        return self


class RolloutConfig(_Section):
    """`rollout:` whether a person must agree to side effects, and how many of them go without one."""

    mode: RolloutMode = RolloutMode.OFF
    canary_percent: int = Field(default=0, ge=0, le=100)
    promote_after: int = Field(default=20, ge=1, le=1_000_000)
    promote_unedited: int = Field(default=0, ge=0, le=1_000_000)

    @property
    def percent(self) -> int:
        """The percent of side effects that the configuration alone lets go without a person."""
        return configured_percent(self.mode, self.canary_percent)


class LoggingConfig(_Section):
    """`logging:` what is recorded beside the packets, and for how many days payloads and envelopes are kept."""

    trace_level: str = Field(default="packets", max_length=200)
    retention_days: int | None = Field(default=None, ge=1, le=36_500)
    prune_days: int | None = Field(default=None, ge=1, le=36_500)

    @model_validator(mode="after")
    def _payloads_first(self) -> LoggingConfig:
        if self.prune_days is not None and (
            self.retention_days is None or self.prune_days <= self.retention_days
        ):
            raise ValueError(
                "prune_days needs a retention_days that is shorter: an envelope goes after its payload"
            )
        return self

    @field_validator("trace_level")
    @classmethod
    def _known_words(cls, text: str) -> str:
        trace_levels(text)
        return text

    @property
    def levels(self) -> frozenset[TraceLevel]:
        return trace_levels(self.trace_level)


class ApprovalsConfig(_Section):
    """`approvals:` how long a request for a person stands, how many at once, and what a client's word may open."""

    expires_s: int = Field(default=86_400, ge=1, le=31_536_000)
    pending_per_principal_max: int = Field(default=20, ge=1, le=10_000)
    allow_same_uid_file: bool = False
    requester_may: tuple[ClientWord, ...] = ()


class LimitsConfig(_Section):
    """`limits:` of the server itself. `_s` is seconds, `_max` a count."""

    attempts_per_minute_max: int = Field(default=120, ge=1, le=1_000_000)
    refusal_records_per_minute_max: int = Field(default=60, ge=0, le=1_000_000)
    clock_jump_s_max: float = Field(default=604_800, gt=0, le=31_536_000)
    retention_interval_s: float = Field(default=3600, gt=0, le=86_400)
    queue_max: int = Field(default=1024, ge=1, le=1_000_000)
    in_flight_max: int = Field(default=256, ge=1, le=65_536)
    halt_wait_s: float = Field(default=2, gt=0, le=600)
    recovery_interval_s: float = Field(default=30, gt=0, le=86_400)
    identical_calls_max: int = Field(default=3, ge=1, le=1_000_000)
    replay_window_s: int = Field(default=86_400, ge=0, le=31_536_000)
    cache_entries_max: int = Field(default=1_000, ge=1, le=1_000_000)
    cache_mib_max: int = Field(default=16, ge=1, le=16_384)
    more_s: float = Field(default=600, gt=0, le=3_600)
    more_mib_max: int = Field(default=16, ge=1, le=16_384)
    elicitation_wait_s: float = Field(default=50, gt=0, le=600)
    tasks_extension_after_s: float = Field(default=5, ge=0, le=600)
    tool_name_max: int = Field(default=40, ge=20, le=64)


class Document(_Section):
    """The whole configuration as written in `comptroller.yaml` and `comptroller.d/*.yaml`."""

    agent: AgentConfig = Field(default_factory=AgentConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    identity: IdentityConfig = Field(default_factory=IdentityConfig)
    sources: dict[SourceName, SourceConfig] = Field(default_factory=dict)
    budgets: BudgetsConfig = Field(default_factory=BudgetsConfig)
    models: dict[Name, ModelName] = Field(default_factory=dict)
    prices: dict[ModelName, ModelPrice] = Field(default_factory=dict)
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig)
    safety: SafetyConfig = Field(default_factory=SafetyConfig)
    tasks: TasksConfig = Field(default_factory=TasksConfig)
    judges: dict[Name, JudgeConfig] = Field(default_factory=dict)
    tools: tuple[ToolConfig, ...] = ()
    policies: tuple[str, ...] = ()
    mode: Mode = Mode.ENFORCE
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    approvals: ApprovalsConfig = Field(default_factory=ApprovalsConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)
    http: HttpConfig = Field(default_factory=HttpConfig)
    streams: dict[StreamName, StreamConfig] = Field(default_factory=dict)
    telemetry: TelemetryConfig = Field(default_factory=TelemetryConfig)
    environment: str = Field(default="default", pattern=r"^[A-Za-z0-9_.-]{1,64}$")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`store:` resolved. `url` is complete and hidden from reprs; the paths are absolute."""

    url: SecretStr
    keys_file: Path
    checkpoint_files: tuple[Path, ...]
    checkpoint_interval_s: float

    @property
    def database(self) -> Path | None:
        """The SQLite file; None for a server elsewhere."""
        url = make_url(self.url.get_secret_value())
        return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that loaded. Immutable; a changed file is a new `Config`.

    `files` are the files read, in order, for a later reload. `policies` are the operator's Cedar files, named
    relative to `base_dir`. `secrets` are the values behind `secret://` references and in the store's URL: what
    leaves the process is searched for them. `fixed_secrets` are those of fixed arguments, by reference. `pins` are the definitions of upstreams that a person accepted.
    """

    path: Path
    base_dir: Path
    data_dir: Path
    files: tuple[Path, ...]
    agent: AgentConfig
    store: StoreSettings
    identity: IdentityConfig
    sources: Mapping[str, SourceConfig]
    upstreams: Mapping[str, UpstreamSettings]
    pins: Pins
    budgets: BudgetsConfig
    models: Mapping[str, str]
    prices: Mapping[str, ModelPrice]
    retrieval: RetrievalConfig
    safety: SafetyConfig
    tasks: TasksConfig
    judges: Mapping[str, JudgeConfig]
    judge_keys: Mapping[str, SecretStr]
    fixed_secrets: Mapping[str, SecretStr]
    tools: tuple[ToolConfig, ...]
    policies: tuple[PolicyFile, ...]
    mode: Mode
    rollout: RolloutConfig
    approvals: ApprovalsConfig
    limits: LimitsConfig
    logging: LoggingConfig
    http: HttpConfig
    streams: Mapping[str, StreamSettings]
    telemetry: TelemetryConfig
    telemetry_secrets: TelemetrySecrets = field(repr=False)
    environment: str
    secrets: tuple[str, ...] = field(repr=False)
    tree: Node = field(repr=False, compare=False)

    def tool(self, name: str) -> ToolConfig | None:
        """The entry of `tools:` with this name."""
        return next((tool for tool in self.tools if tool.name == name), None)

    def placed(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Findings of later stages with file and line.

        `where` may be a config path, with a tool by index or by name (`tools[2].facts`, `tools.issue_refund.facts`);
        the nearest part that was written gives the line, and the message gets the path as it was written. Any
        other place (`policies/refunds.cedar:3`) stays.
        """
        return tuple(self._placed(finding) for finding in findings)

    def _placed(self, finding: Finding) -> Finding:
        section = re.split(r"[.\[]", finding.where, maxsplit=1)[0]
        if section not in Document.model_fields:
            return finding
        path, rest = parsed_path(self.tree, finding.where)
        where, shown = shown_path(self.tree, path)
        return Finding(where, f"`{shown}{rest}`: {finding.message}")

    def digest_material(self) -> JsonObject:
        """All that shapes decisions, for the bundle's digest: no secret, and nothing of where things lie.

        The same text gives the same value on every machine. Tools are sorted by name, so that moving one to
        another file changes nothing.
        """
        material: dict[str, Json] = {
            section: _json(getattr(self, section))
            for section in (
                "agent",
                "identity",
                "budgets",
                "retrieval",
                "safety",
                "tasks",
                "rollout",
                "approvals",
                "limits",
                "logging",
                "http",
            )
        }
        material["sources"] = {name: _json(source) for name, source in self.sources.items()}
        material["pins"] = {
            source: {name: pin.digest for name, pin in tools.items()} for source, tools in self.pins.items()
        }
        material["models"] = dict(self.models)
        material["judges"] = {
            name: judge.model_dump(mode="json", exclude={"key"}) for name, judge in self.judges.items()
        }
        material["prices"] = {name: _json(price) for name, price in self.prices.items()}
        material["tools"] = [_json(tool) for tool in sorted(self.tools, key=lambda tool: tool.name)]
        material["policies"] = [
            {"name": file.name, "sha256": hashlib.sha256(file.text.encode()).hexdigest()}
            for file in self.policies
        ]
        # What leaves and to whom; not the files and credentials of this machine.
        local = {"file", "ca_file", "secret", "headers"}
        material["streams"] = {
            name: stream.config.model_dump(mode="json", exclude=local)
            for name, stream in self.streams.items()
        }
        material["environment"] = self.environment
        material["mode"] = self.mode.value
        return material


def _json(model: BaseModel) -> Json:
    value: Json = model.model_dump(mode="json", by_alias=True)
    return value


def config_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `comptroller.yaml`, for editors that complete and check YAML."""
    schema = Document.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "comptroller.yaml"}
