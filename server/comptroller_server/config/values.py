"""What written values stand for: `{data_dir}`, relative paths, database URLs, `secret://` references, globs.

A resolved secret is in no message and no repr; it leaves this module only inside `SecretStr` and the list of
values to withhold.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from comptroller_policy.errors import Finding
from comptroller_policy.model import PolicyFile
from comptroller_server.config.judges import JudgeConfig
from comptroller_server.config.model import SourceConfig, StoreConfig, StoreSettings
from comptroller_server.config.paths import KeyPath, finding_at
from comptroller_server.config.shaping import FIXED_SECRETS, fixed_secrets
from comptroller_server.config.streams import SECRET_PLACES as STREAM_SECRETS
from comptroller_server.config.streams import StreamConfig, StreamSettings, stream_settings
from comptroller_server.config.telemetry import TELEMETRY_SECRETS, TelemetryConfig, TelemetrySecrets
from comptroller_server.config.upstreams import SECRET_PLACES, upstream_settings
from comptroller_server.config.yaml_lines import Node
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.upstream.pins import LOCK_NAME, Pins, PinsInvalid, read_pins
from comptroller_tools.upstream.settings import UpstreamSettings

__all__ = [
    "fixed_secrets_of",
    "judge_keys_of",
    "misplaced_secrets",
    "pins_of",
    "policy_files",
    "source_files",
    "store_settings",
    "streams_of",
    "telemetry_secrets_of",
    "upstreams_of",
]

POLICY_BYTES_MAX = 1_048_576
"""Bytes in one policy file."""
POLICY_FILES_MAX = 1000
SECRET_BYTES_MAX = 65_536
"""Bytes in one secret file."""

_SECRET = "secret://"  # noqa: S105 - the scheme of references, not a secret
_SECRET_PLACES: tuple[KeyPath, ...] = (
    ("store", "url"),
    ("judges", "*", "key"),
    *SECRET_PLACES,
    FIXED_SECRETS,
    *STREAM_SECRETS,
    *TELEMETRY_SECRETS,
)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}?|\}")
_DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgresql+psycopg"})


class _Wrong(Exception):
    """A value stands for nothing usable; the message follows the field's path."""


def store_settings(
    tree: Node, written: StoreConfig, base_dir: Path, data_dir: Path
) -> tuple[StoreSettings | None, tuple[str, ...], list[Finding]]:
    """The store resolved, the secret values found on the way, and what is wrong. None when something is."""
    findings: list[Finding] = []
    secrets: tuple[str, ...] = ()
    url: SecretStr | None = None
    database: Path | None = None
    try:
        text = _revealed(written.url, base_dir, data_dir)
        if text != written.url:
            secrets = (text,)
        parsed, database = _database_url(text, base_dir, data_dir)
        complete = parsed.render_as_string(hide_password=False)
        secrets = tuple(dict.fromkeys((*secrets, *_secret_parts(text, parsed))))
        url = SecretStr(complete)
    except _Wrong as wrong:
        findings.append(finding_at(tree, ("store", "url"), str(wrong)))
    places: list[tuple[KeyPath, str]] = [(("store", "keys", "file"), written.keys.file)]
    places += [(("store", "checkpoints", at, "file"), one.file) for at, one in enumerate(written.checkpoints)]
    paths: list[Path] = []
    taken: dict[Path, str] = {database: "the database"} if database is not None else {}
    for at, value in places:
        try:
            path = _file_path(value, base_dir, data_dir)
        except _Wrong as wrong:
            findings.append(finding_at(tree, at, str(wrong)))
            continue
        if path in taken:
            findings.append(
                finding_at(tree, at, f"is also the file of {taken[path]}; name a file of its own")
            )
        taken[path] = ".".join(str(part) for part in at[:2])
        paths.append(path)
    if url is None or findings:
        return None, (), findings
    return StoreSettings(url, paths[0], tuple(paths[1:]), written.checkpoint_interval_s), secrets, []


def policy_files(
    tree: Node, patterns: Sequence[str], base_dir: Path
) -> tuple[tuple[PolicyFile, ...], list[Finding]]:
    """The Cedar files that the patterns match, by name, each once."""
    files: dict[str, PolicyFile] = {}
    findings: list[Finding] = []
    for at, pattern in enumerate(patterns):
        try:
            for path in _matches(pattern, base_dir):
                name = (
                    path.relative_to(base_dir).as_posix()
                    if path.is_relative_to(base_dir)
                    else path.as_posix()
                )
                if name not in files:
                    files[name] = PolicyFile(name, _policy_text(path, name))
        except _Wrong as wrong:
            findings.append(finding_at(tree, ("policies", at), str(wrong)))
    return tuple(files[name] for name in sorted(files)), findings


def source_files(tree: Node, sources: Mapping[str, SourceConfig], base_dir: Path) -> Iterator[Finding]:
    """A finding for each source given by a file that is not there."""
    for name, source in sources.items():
        if source.python is None:
            continue
        file = source.python.rpartition(":")[0] or source.python
        if file.endswith(".py") and not _is_file(base_dir / file):
            yield finding_at(
                tree,
                ("sources", name, "python"),
                "names a file that is not there; the path starts at the config file",
            )


def judge_keys_of(
    tree: Node, judges: Mapping[str, JudgeConfig], base_dir: Path, data_dir: Path
) -> tuple[dict[str, SecretStr], tuple[str, ...], list[Finding]]:
    """The values behind the keys of judges, the same as secrets to withhold, and what is wrong."""
    keys: dict[str, SecretStr] = {}
    findings: list[Finding] = []
    for name, judge in judges.items():
        if judge.key is None:
            continue
        place = ("judges", name, "key")
        if not judge.key.startswith(_SECRET):
            findings.append(
                finding_at(
                    tree, place, "must be a reference: write `secret://env/NAME` or `secret://file/PATH`"
                )
            )
            continue
        try:
            keys[name] = SecretStr(_header_text(_revealed(judge.key, base_dir, data_dir)))
        except _Wrong as wrong:
            findings.append(finding_at(tree, place, str(wrong)))
    return keys, tuple(key.get_secret_value() for key in keys.values()), findings


def upstreams_of(
    tree: Node, sources: Mapping[str, SourceConfig], base_dir: Path, data_dir: Path
) -> tuple[dict[str, UpstreamSettings], tuple[str, ...], list[Finding]]:
    """The MCP servers as they are started or reached, the secrets among their values, and what is wrong."""
    given = {name: source.mcp for name, source in sources.items() if source.mcp is not None}
    return upstream_settings(
        tree, given, base_dir, data_dir, lambda text: _revealed(text, base_dir, data_dir)
    )


def streams_of(
    tree: Node,
    streams: Mapping[str, StreamConfig],
    store: StoreSettings | None,
    base_dir: Path,
    data_dir: Path,
) -> tuple[dict[str, StreamSettings], tuple[str, ...], list[Finding]]:
    """The streams as they are served, the secrets among their values, and what is wrong."""
    taken = (
        [store.keys_file, *store.checkpoint_files, *([store.database] if store.database else [])]
        if store is not None
        else []
    )
    return stream_settings(
        tree,
        streams,
        base_dir,
        taken,
        lambda text: _file_path(text, base_dir, data_dir),
        lambda text: _revealed(text, base_dir, data_dir),
    )


def fixed_secrets_of(
    tree: Node, tools: Sequence[ToolConfig], base_dir: Path, data_dir: Path
) -> tuple[dict[str, SecretStr], tuple[str, ...], list[Finding]]:
    """The values behind fixed arguments by reference, the same as secrets to withhold, and what is wrong."""
    found, findings = fixed_secrets(tree, tools, lambda text: _revealed(text, base_dir, data_dir))
    return found, tuple(value.get_secret_value() for value in found.values()), findings


def telemetry_secrets_of(
    tree: Node, telemetry: TelemetryConfig, base_dir: Path, data_dir: Path
) -> tuple[TelemetrySecrets, list[Finding]]:
    """The values behind the references of `telemetry`, and what is wrong."""
    findings: list[Finding] = []

    def value(reference: str, *place: str) -> SecretStr:
        if not reference.startswith(_SECRET):
            text = "must be a reference: write `secret://env/NAME` or `secret://file/PATH`"
            findings.append(finding_at(tree, ("telemetry", *place), text))
            return SecretStr("")
        try:
            text = _revealed(reference, base_dir, data_dir)
            _header_text(text if place[0] == "metrics" else text.replace(" ", "", 1))  # `Bearer KEY` has one
        except _Wrong as wrong:
            findings.append(finding_at(tree, ("telemetry", *place), str(wrong)))
            return SecretStr("")
        return SecretStr(text)

    written = telemetry.traces.headers if telemetry.traces is not None else {}
    headers = {name: value(reference, "traces", "headers", name) for name, reference in written.items()}
    token = telemetry.metrics.token
    held = value(token, "metrics", "token") if token is not None else None
    return TelemetrySecrets(headers, held), findings


def pins_of(base_dir: Path) -> tuple[Pins, list[Finding]]:
    """The accepted definitions beside the config, and what is wrong with their file."""
    path = base_dir / LOCK_NAME
    try:
        return read_pins(path), []
    except PinsInvalid as error:
        return {}, [Finding(str(path), str(error))]


def _header_text(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise _Wrong("leads to a value that no HTTP header can hold; put the key alone there, one line")
    return value


def misplaced_secrets(tree: Node) -> Iterator[Finding]:
    """A finding for each reference where none is read: it would be used as it stands."""
    for path, text in _texts(tree, ()):
        if text.strip().startswith(_SECRET) and not _takes_a_secret(path):
            text = (
                "takes no secret: references are read in `store.url`, in the `key` of judges and in `env`, `headers`, "
                "`bearer` and `oauth.client_secret` of an MCP server, in `secret` and `headers` of streams, in `fixed` arguments "
                "and in `telemetry` only; remove it"
            )
            yield finding_at(tree, path, text)


def _takes_a_secret(path: KeyPath) -> bool:
    return any(
        len(path) == len(place) and all(part in ("*", key) for part, key in zip(place, path, strict=True))
        for place in _SECRET_PLACES
    )


def _texts(node: Node, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(node.value, str):
        yield path, node.value
    elif isinstance(node.value, tuple):
        for at, child in enumerate(node.value):
            yield from _texts(child, (*path, at))
    elif isinstance(node.value, Mapping):
        for key, child in node.value.items():
            yield from _texts(child, (*path, key))


def _revealed(value: str, base_dir: Path, data_dir: Path) -> str:
    """The value behind a `secret://env/NAME` or `secret://file/PATH` reference; other text as it is."""
    if not value.startswith(_SECRET):
        return value
    kind, _, name = value.removeprefix(_SECRET).partition("/")
    if kind == "env" and _ENV_NAME.fullmatch(name):
        secret = os.environ.get(name)
        if not secret:
            raise _Wrong(
                f"needs the environment variable {name}, which is not set or empty; set it and start again"
            )
        return secret
    if kind == "file" and name:
        return _secret_file(_file_path(name, base_dir, data_dir))
    raise _Wrong("is not a reference; write `secret://env/NAME` or `secret://file/PATH`")


def _secret_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(SECRET_BYTES_MAX + 1)
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _Wrong(
            f"needs the secret file {path}, which cannot be read ({reason}); make it or name another"
        ) from None
    if stat.S_IMODE(mode) & 0o027:
        raise _Wrong(
            f"needs the secret file {path}, which other users can read or change; run `chmod 600` on it"
        )
    if not text or len(data) > SECRET_BYTES_MAX:
        raise _Wrong(
            f"needs the secret file {path}, which is empty or too large; put the value in it, one line"
        )
    return text


def _database_url(text: str, base_dir: Path, data_dir: Path) -> tuple[URL, Path | None]:
    """The URL with an absolute path, and that path for SQLite. The text itself may be a secret: never shown."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _Wrong("is not a database URL; write `sqlite:///FILE` or `postgresql+psycopg://…`") from None
    if url.drivername not in _DRIVERS:
        raise _Wrong("must begin with `sqlite:///` or `postgresql+psycopg://`; change the part before `://`")
    if not url.drivername.startswith("sqlite"):
        if not url.database:
            raise _Wrong("names no database; end it with `/NAME`")
        return url, None
    if not url.database or url.database.startswith((":", "file:")) or url.host or url.query:
        raise _Wrong("must name a file and nothing else, for example `sqlite:///{data_dir}/comptroller.db`")
    path = _file_path(url.database, base_dir, data_dir)
    complete = url.set(database=str(path))
    if make_url(complete.render_as_string(hide_password=False)).database != str(path):
        raise _Wrong(
            "leads to a path that a URL cannot hold; choose a data directory without `?`, `#` and `%`"
        )
    return complete, path


def _secret_parts(text: str, url: URL) -> Iterator[str]:
    """Passwords inside a URL, as written and decoded."""
    raw = re.match(r"[^:/]+://[^:@/]*:([^@]+)@", text)
    if raw:
        yield raw[1]
    if url.password:
        yield url.password
    for key, values in url.query.items():
        if "pass" in key.lower():
            yield from (
                unquote(value) for value in ([values] if isinstance(values, str) else values) if value
            )


def _file_path(value: str, base_dir: Path, data_dir: Path) -> Path:
    """An absolute path: `{data_dir}` replaced, the rest from the directory of the config file."""
    unknown = next((found for found in _PLACEHOLDER.findall(value) if found != "{data_dir}"), None)
    if unknown is not None:
        raise _Wrong(f"holds `{unknown[:40]}`; the one placeholder in a path is `{{data_dir}}`")
    if value.startswith("~"):
        raise _Wrong("begins with `~`, which is not expanded; write the whole path or use `{data_dir}`")
    return Path(os.path.normpath(base_dir / value.replace("{data_dir}", str(data_dir))))


def _matches(pattern: str, base_dir: Path) -> list[Path]:
    found: list[Path] = []
    for name in glob.iglob(pattern, root_dir=base_dir, recursive=True):
        found.append(Path(os.path.normpath(base_dir / name)))
        if len(found) > POLICY_FILES_MAX:
            raise _Wrong(f"matches more than {POLICY_FILES_MAX} files; write a narrower pattern")
    if not found:
        raise _Wrong("matches no file; the path starts at the config file, for example `policies/*.cedar`")
    return sorted(found)


def _policy_text(path: Path, name: str) -> str:
    if path.suffix != ".cedar" or not _is_file(path):
        raise _Wrong(f"matches {name}, which is not a `.cedar` file; write a narrower pattern")
    try:
        with path.open("rb") as file:
            data = file.read(POLICY_BYTES_MAX + 1)
        if len(data) > POLICY_BYTES_MAX:
            raise _Wrong(f"matches {name}, which is larger than {POLICY_BYTES_MAX} bytes; split it")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _Wrong(f"matches {name}, which cannot be read ({reason}); fix or move that file") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
