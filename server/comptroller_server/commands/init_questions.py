"""The questions of `comptroller init`. Each has a flag, and a default that `--yes` takes."""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

import click

from comptroller_server.commands.enrolling import checked_name
from comptroller_server.config.checks import BUILT_IN_UNITS
from comptroller_server.errors import CommandError
from comptroller_server.setting_up.answers import (
    Answers,
    Limits,
    SourceKind,
    mcp_by_command,
    mcp_by_url,
    slug,
)
from comptroller_server.setting_up.clients import CLIENTS, ClientKind, Machine
from comptroller_server.setting_up.documents import DESK_UNIT

__all__ = ["Given", "answered"]

T = TypeVar("T")
OBJECTIVES = {
    SourceKind.DESK: "Resolve low-risk billing tickets",
    SourceKind.PYTHON: "Use these functions within their limits",
    SourceKind.MCP: "Use this server within its limits",
    SourceKind.IMPORT: "Use these servers within their limits",
}
_UNIT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_DECIMALS_MAX = 6


@dataclass(frozen=True, slots=True)
class Given:
    """What flags said; None where they said nothing."""

    folder: Path
    agent: str | None
    objective: str | None
    source: str | None
    python: str | None
    command: str | None
    url: str | None
    client_file: Path | None
    client: str | None
    calls: int | None
    minutes: int | None
    unit: str | None
    most: str | None
    approver: str | None
    nobody: bool


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks at the terminal, or takes the default."""

    asking: bool

    def of(self, question: str, given: T | None, default: T, read: Callable[[str], T]) -> T:
        if given is not None or not self.asking:
            return default if given is None else given
        answer: T = click.prompt(question, default=default, value_proc=_again(read))
        return answer


def _again(read: Callable[[str], T]) -> Callable[[str | T], T]:
    """What cannot be used is asked for again."""

    def proc(text: str | T) -> T:
        try:
            return read(str(text).strip())
        except CommandError as error:
            raise click.BadParameter(str(error)) from None

    return proc


def answered(given: Given, *, asking: bool) -> Answers:
    """Every answer, from flags, from the person, or by default. Raises `CommandError` for one that cannot be used."""
    ask = _Asker(asking)
    agent = ask.of(
        "What is the agent called?", _checked(given.agent, _agent), _by_folder(given.folder), _agent
    )
    source = ask.of(
        "Where do its tools come from? (desk: the sample, to try; python: your functions; mcp: an MCP server; "
        "import: servers that a client has)",
        _kind(given),
        SourceKind.DESK,
        _source,
    )
    objective = ask.of("What is it for?", given.objective, OBJECTIVES[source], _objective)
    target = mcp = client_file = None
    if source is SourceKind.PYTHON:
        target = _target(
            given.folder,
            _needed(ask, given.python, "Which file (or module) holds the functions?", "--python"),
        )
    elif source is SourceKind.MCP and given.url is not None:
        mcp = mcp_by_url(given.url)
    elif source is SourceKind.MCP:
        text = _needed(
            ask, given.command, "Which command starts the server, or which URL has it?", "--command or --url"
        )
        mcp = mcp_by_url(text) if re.match(r"https?://", text) else mcp_by_command(text)
    elif source is SourceKind.IMPORT:
        named = str(given.client_file) if given.client_file is not None else None
        client_file = _file(_needed(ask, named, "Which file lists them?", "--client-file"))
    client = ask.of(
        f"Which client will use it? ({', '.join(CLIENTS)})",
        ClientKind(given.client) if given.client is not None else None,
        _by_file(client_file),
        _client,
    )
    limits = _limits(ask, given, source)
    nobody = (
        None
        if given.nobody
        else ask.of(
            "Who approves? (a name; `nobody` to enrol somebody later, but before it first serves)",
            _checked(given.approver, checked_name),
            _account(),
            checked_name,
        )
    )
    approver = None if nobody == "nobody" else nobody
    return Answers(given.folder, agent, objective, source, client, approver, limits, target, mcp, client_file)


def _limits(ask: _Asker, given: Given, source: SourceKind) -> Limits:
    standard = Limits()
    calls = ask.of("How many calls may one task make?", given.calls, standard.calls, _count)
    minutes = ask.of("How many minutes may it work?", given.minutes, standard.minutes, _count)
    unit, most = _checked(given.unit, _unit), _checked(given.most, _amount)
    if source is SourceKind.DESK and unit not in (None, DESK_UNIT):
        raise CommandError(f"the sample desk counts `{DESK_UNIT}`; leave out --unit")
    if source is SourceKind.PYTHON:
        unit = ask.of("In which unit is money counted?", unit, standard.unit, _unit)
    if source in (SourceKind.DESK, SourceKind.PYTHON):
        most = ask.of("How much of it may one call move?", most, standard.most, _amount)
    return Limits(calls, minutes, unit or standard.unit, most or standard.most)


def _needed(ask: _Asker, given: str | None, question: str, flag: str) -> str:
    if given is not None:
        return given
    if not ask.asking:
        raise CommandError(f"this source needs {flag}")
    answer: str = click.prompt(question)
    return answer.strip()


def _checked(given: str | None, read: Callable[[str], str]) -> str | None:
    return None if given is None else read(given)


def _kind(given: Given) -> SourceKind | None:
    """The source that was named, or that another flag implies. Raises `CommandError` where flags disagree."""
    implied = {
        kind
        for kind, value in (
            (SourceKind.PYTHON, given.python),
            (SourceKind.MCP, given.command),
            (SourceKind.MCP, given.url),
            (SourceKind.IMPORT, given.client_file),
        )
        if value is not None
    } | ({SourceKind(given.source)} if given.source is not None else set[SourceKind]())
    if len(implied) > 1 or (given.command is not None and given.url is not None):
        raise CommandError(
            "the flags name several sources; begin with one, and add others to comptroller.yaml"
        )
    return next(iter(implied), None)


def _by_folder(folder: Path) -> str:
    return slug(folder.absolute().name or "agent")


def _by_file(client_file: Path | None) -> ClientKind:
    """Whose file it is: what is imported from a client's file goes back into it under that client's name."""
    own = Machine(Path.home(), sys.platform, os.environ).client_of(client_file) if client_file else None
    return own.kind if own is not None else ClientKind.CLAUDE_DESKTOP


def _agent(text: str) -> str:
    if not text.strip() or len(text) > 64 or not text.isprintable():
        raise CommandError("the agent's name is 1 to 64 printable characters")
    return text


def _objective(text: str) -> str:
    return text[:2000]


def _source(text: str) -> SourceKind:
    if text not in set(SourceKind):
        raise CommandError(f"it is one of {', '.join(SourceKind)}")
    return SourceKind(text)


def _client(text: str) -> ClientKind:
    if text not in set(ClientKind):
        raise CommandError(f"it is one of {', '.join(ClientKind)}")
    return ClientKind(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise CommandError("it is a whole number from 1 to 1000000")
    return int(text)


def _unit(text: str) -> str:
    if not _UNIT.fullmatch(text) or text in BUILT_IN_UNITS:
        raise CommandError(f"{text!r} cannot be a unit of your own; use letters, digits and `_`, such as usd")
    return text


def _amount(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal(0)
    if (
        not number.is_finite()
        or not 0 < number <= 10**9
        or number.quantize(Decimal(1).scaleb(-_DECIMALS_MAX)) != number
    ):
        raise CommandError(f"{text!r} is no amount; write a number such as 50, six decimal places at most")
    return f"{number:f}"


def _target(folder: Path, text: str) -> str:
    """A module as it is; a file, named from here, as the configuration in `folder` names it."""
    file, _, name = text.partition(".py")
    if not text.endswith(".py") and not name.startswith(":"):
        return text
    path = Path(f"{file}.py").expanduser().absolute()
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    home = folder.absolute()
    shown = f"./{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)
    return f"{shown}{name}"


def _file(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    return path


def _account() -> str:
    """The account's name, if an approver can be called that."""
    try:
        return checked_name(getpass.getuser())
    except (CommandError, KeyError, OSError):
        return f"uid-{os.getuid()}"
