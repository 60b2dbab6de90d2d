"""What a first configuration is made of, answered by questions or by flags."""

from __future__ import annotations

import re
import shlex
import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from comptroller_audit.patterns import CREDENTIALS
from comptroller_audit.redaction import Release
from comptroller_server.config.upstreams import McpConfig
from comptroller_server.errors import CommandError
from comptroller_server.setting_up.clients import ClientKind

__all__ = [
    "Answers",
    "Limits",
    "SourceKind",
    "mcp_by_command",
    "mcp_by_url",
    "slug",
    "source_name",
    "unaccented",
]

_RUNNERS = frozenset({"npx", "npm", "pnpx", "bunx", "uvx", "uv", "pipx", "run", "exec", "node", "python", "python3", "docker"})  # fmt: skip
_HOST_WORDS = frozenset({"www", "mcp", "api", "com", "org", "net", "io", "dev", "ai", "app", "localhost"})


class SourceKind(StrEnum):
    """Where the tools come from. `import` is for servers that a client already has; they are taken over later."""

    DESK = "desk"
    PYTHON = "python"
    MCP = "mcp"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Limits:
    """`calls` in one task, `minutes` of it, and `most` of `unit` in one call (decimal text)."""

    calls: int = 50
    minutes: int = 30
    unit: str = "usd"
    most: str = "50"


@dataclass(frozen=True, slots=True)
class Answers:
    """All of it. Of `target`, `mcp` and `client_file` the one that `source` needs is given.

    `approver` is None when nobody is enrolled now.
    """

    folder: Path
    agent: str
    objective: str
    source: SourceKind
    client: ClientKind
    approver: str | None
    limits: Limits = field(default_factory=Limits)
    target: str | None = None
    mcp: McpConfig | None = None
    client_file: Path | None = None

    @property
    def store(self) -> str:
        """The folder of its own, below the data directory, in which this agent's records are kept."""
        return slug(self.agent)


def unaccented(text: str) -> str:
    """`Büro` as `Buro`: what people see in a name stays readable where only ASCII is good."""
    return "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))


def slug(text: str) -> str:
    """Letters, digits and `-`: good for a folder, a source or a client."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", unaccented(text)).strip("-").lower()[:40].rstrip("-")
    return plain if plain[:1].isalpha() else f"agent-{plain}".rstrip("-")


def mcp_by_command(text: str) -> McpConfig:
    """The server that a command line starts. Raises `CommandError`, also for one that shows a credential."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"the command cannot be read ({error}); quote it as for a shell") from None
    if not words:
        raise CommandError("the command of the MCP server is empty")
    if any(Release((), (CREDENTIALS,)).secrets_in(word) for word in words):
        raise CommandError(
            "the command seems to hold a credential, which anybody on this machine could list; leave it out, and "
            "give the server an `env` with a `secret://` reference afterwards"
        )
    return _valid({"command": words[0], "args": tuple(words[1:])})


def mcp_by_url(url: str) -> McpConfig:
    """The server at a URL. Raises `CommandError`."""
    return _valid({"url": url})


def _valid(written: dict[str, object]) -> McpConfig:
    try:
        return McpConfig.model_validate(written)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CommandError(
            f"the MCP server's {place or 'entry'}: {first['msg'].removeprefix('Value error, ')[:200]}"
        ) from None


def source_name(answers: Answers) -> str:
    """What the source is called in the configuration: after the file, the package or the host."""
    if answers.source is SourceKind.PYTHON and answers.target is not None:
        named = (
            answers.target.partition(".py")[0]
            if ".py" in answers.target
            else answers.target.partition(":")[0]
        )
        return _short(re.split(r"[./\\]", named)[-1])
    if answers.mcp is None:
        return "desk"
    if answers.mcp.url is not None:
        labels = [
            one for one in (urlsplit(answers.mcp.url).hostname or "").split(".") if one not in _HOST_WORDS
        ]
        return _short(labels[0] if labels and not labels[0].isdigit() else "server")
    words = [answers.mcp.command or "", *answers.mcp.args]
    telling = [one for one in words if not one.startswith("-") and Path(one).name not in _RUNNERS]
    name = re.split(r"[/\\]", telling[0])[-1] if telling else "server"
    return _short(re.sub(r"^(mcp-)?server-|@.*$|\.(py|js|ts)$", "", name))


def _short(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40].rstrip("_")
    return plain if plain[:1].isalpha() else "tools"
