"""`comptroller import`: the MCP servers of clients become sources here, and the clients get us in their place."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from comptroller_audit.files import make_private, write_private
from comptroller_server.commands.choosing import Choice, at_a_terminal, choose
from comptroller_server.commands.classify import show_answers, show_left, show_written, written_problems
from comptroller_server.commands.config_files import CONFIG_NAME, CONFIG_VARIABLE
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import installation_of
from comptroller_server.commands.showing import emit, plain, say
from comptroller_server.config.loading import data_directory, load_config
from comptroller_server.config.model import Config
from comptroller_server.errors import CommandError
from comptroller_server.setting_up.clients import CLIENTS, Machine
from comptroller_server.setting_up.starting import serve_words
from comptroller_server.upstreams.accepting import accept
from comptroller_server.upstreams.asking import ask
from comptroller_server.upstreams.client_files import ClientFile, Found
from comptroller_server.upstreams.importing import Reading, read_client_file
from comptroller_server.upstreams.source_files import begun, write_sources
from comptroller_server.upstreams.source_names import SourceNames
from comptroller_server.upstreams.switching import file_mark, switch, switched_files, undo

__all__ = ["import_servers"]

_LEFT = "--leave says so"
ANYBODY = "default"
"""The configured client that a file belongs to where no client has its own name there."""


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--accept", "file", type=click.Path(path_type=Path, dir_okay=False),
    help="A YAML file `SOURCE: {TOOL: EFFECT}`, as for `classify`; what it must decide and does not is exit code 1.",
)  # fmt: skip
@click.option(
    "--yes", is_flag=True, help="Do everything that is shown, and accept tools as they are proposed."
)
@click.option(
    "--client",
    metavar="NAME",
    help="Which configured client the file belongs to, where its own name is none.",
)
@click.option(
    "--leave", "left_out", metavar="SERVER", multiple=True,
    help="Leave this server in the client's file, ungoverned; may be given again.",
)  # fmt: skip
@click.option("--keep-client", is_flag=True, help="Leave the client's file as it is.")
@click.option("--undo", "back", is_flag=True, help="Give the client's file the bytes it had before.")
@click.option(
    "--only-servers", is_flag=True, help="With --undo: leave what was changed in the file beside its servers."
)
@options()
@click.pass_context
def import_servers(
    ctx: click.Context,
    path: Path | None,
    file: Path | None,
    yes: bool,
    client: str | None,
    left_out: tuple[str, ...],
    keep_client: bool,
    back: bool,
    only_servers: bool,
) -> None:
    """Govern the MCP servers that clients have: in the file at PATH, or without it in every file that is found.

    It looks for those of Claude Desktop, Claude Code, Cursor, VS Code and Windsurf, of this user and of the project in
    this folder, and shows what it would do. With a yes it writes each server as a source, moves secrets into private
    files, lists and classifies the tools as `classify` does, and only then puts Comptroller into each client's file in
    their place. A copy is kept; `--undo` restores it byte for byte.
    """
    invocation = invocation_of(ctx)
    if file is not None and yes:
        raise click.UsageError("--accept and --yes say two different things; give one")
    if only_servers and not back:
        raise click.UsageError("--only-servers belongs to --undo")
    if back:
        _undo(invocation, path, only_servers=only_servers)
        return
    config = _config(invocation)
    found = _read(invocation, config, path, left_out)
    if not invocation.as_json:
        _show_plan(found, config)
    if not any(one.governable or _asks(one) for one in found):
        raise CommandError(
            f"{', '.join(str(one.path) for one in found)}: no server that can be governed here"
        )
    if isinstance(config, Config) and not keep_client:
        _client_names(config, found, client)
    if not _may_go_on(invocation, yes=yes or file is not None):
        _tell(invocation, path, found, {}, ["Nothing was written: use a terminal, --accept FILE or --yes."])
        return
    if _fill_in(invocation, found):
        found = _read(invocation, config, path, left_out)
    waiting = [one for each in found for one in _asks(each)]
    if waiting and not any(one.governable for one in found):
        _tell(invocation, path, found, {}, [f"Nothing was written. {_what_waits(waiting)}"])
        findings()
    _write(config, invocation, found)
    choice = _take_over(invocation, found, file, yes=yes)
    kept = {} if keep_client or choice.left else _switch(invocation, found, client)
    told = [*_outcome(found, kept), *([_what_waits(waiting)] if waiting else [])]
    _tell(invocation, path, found, kept, told, choice.left)
    if waiting or len(kept) < sum(1 for one in found if one.governable):
        findings()


def _undo(invocation: Invocation, path: Path | None, *, only_servers: bool) -> None:
    data_dir = data_directory(invocation.data_dir)
    paths = [path] if path is not None else switched_files(data_dir)
    if not paths:
        raise CommandError("no client's file is switched now")
    restored: list[str] = []
    wrong: list[str] = []
    for one in paths:
        try:
            restored.append(str(undo(data_dir, one, only_servers=only_servers)))
        except CommandError as error:
            wrong.append(str(error))
    if wrong and not restored:
        raise CommandError("; ".join(wrong))
    if invocation.as_json:
        emit(
            {"restored": restored[0] if path is not None else restored, **({"wrong": wrong} if wrong else {})}
        )
    else:
        for name in restored:
            say(f"{name} has its servers back. The sources stay here.")
        for text in wrong:
            say(text)
    if wrong:
        findings()


# -- reading ----------------------------------------------------------------------------------------------------------


def _config(invocation: Invocation) -> Config | Path:
    """The configuration there is, or the path where one will be made."""
    named = invocation.config or (
        Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else Path(CONFIG_NAME)
    )
    invocation.config = named
    return load_config(named, data_dir=invocation.data_dir) if named.is_file() else named.absolute()


def _read(
    invocation: Invocation, config: Config | Path, path: Path | None, left_out: Collection[str]
) -> list[ClientFile]:
    """The files that are meant, without the servers that are left to their clients. Raises `CommandError`."""
    found = _files(invocation, config, path)
    names = {one.name for each in found for one in each.servers}
    if unknown := sorted(set(left_out) - names):
        raise CommandError(
            f"--leave {unknown[0]}: no such server; these are listed: {', '.join(sorted(names))}"
        )
    return [each.leaving(left_out, _LEFT) for each in found]


def _files(invocation: Invocation, config: Config | Path, path: Path | None) -> list[ClientFile]:
    """The file that is named, or those found that list any server but us."""
    machine = Machine(Path.home(), sys.platform, os.environ)
    there = _imported(config)
    names = SourceNames([name for name in _sources(config) if name not in there], there)
    reading = Reading(machine, names, _given(invocation))
    if path is not None:
        return [read_client_file(path, reading)]
    found: list[ClientFile] = []
    looked = list(machine.files(Path.cwd()))
    for client, place in looked:
        try:
            one = read_client_file(place, reading, client)
        except CommandError as wrong:
            if not invocation.as_json:
                say(f"Left out: {wrong}")
            continue
        if one.servers:
            found.append(one)
    if not found:
        places = ", ".join(str(place) for _, place in looked) or "nothing of any client that is known"
        raise CommandError(f"no client's file lists a server (found {places}); name the file that does")
    return found


def _sources(config: Config | Path) -> Iterable[str]:
    return config.sources if isinstance(config, Config) else ()


def _imported(config: Config | Path) -> dict[str, Any]:
    """The sources that an earlier import has written, by name."""
    if not isinstance(config, Config):
        return {}
    # Named from this folder or from the root: both are the same file.
    made = {file.resolve() for file in config.files if file.name.startswith("imported")}
    sources = config.tree.value.get("sources") if isinstance(config.tree.value, dict) else None
    entries = sources.value if sources is not None and isinstance(sources.value, dict) else {}
    plain_ = {name: node.plain() for name, node in entries.items() if Path(node.file).resolve() in made}
    return {name: written.get("mcp") for name, written in plain_.items() if isinstance(written, dict)}


# -- what a person must fill in ---------------------------------------------------------------------------------------


def _asks(found: ClientFile) -> list[Found]:
    return [one for one in found.servers if one.asks is not None]


def _answer_file(path: Path, name: str) -> str:
    return f"input.{file_mark(path)}.{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"


class _Given(Mapping[str, str]):
    """Answers to what one file asks for, each in a private file below the data directory."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder = folder
        self._path = path

    def __getitem__(self, name: str) -> str:
        try:
            return (self._folder / _answer_file(self._path, name)).read_text().rstrip("\n")
        except OSError:
            raise KeyError(name) from None

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def _given(invocation: Invocation) -> Callable[[Path], Mapping[str, str]]:
    return functools.partial(_Given, data_directory(invocation.data_dir) / "secrets")


def _fill_in(invocation: Invocation, found: Sequence[ClientFile]) -> bool:
    """Ask for what the files ask for, unseen; whether anything was given. Only at a terminal."""
    asked = {(each.path, str(one.asks)): one for each in found for one in _asks(each)}
    if not asked or invocation.as_json or not at_a_terminal():
        return False
    folder, given = make_private(data_directory(invocation.data_dir) / "secrets"), False
    for (path, name), one in asked.items():
        value = click.prompt(
            f"{plain(one.name)}: {plain(str(one.why_not))} (Enter: leave it)",
            hide_input=True,
            default="",
            show_default=False,
        )
        if value:
            write_private(folder / _answer_file(path, name), value.encode())
            given = True
    return given


# -- telling ----------------------------------------------------------------------------------------------------------


def _tell(
    invocation: Invocation,
    path: Path | None,
    found: Sequence[ClientFile],
    kept: Mapping[Path, Path],
    lines: Sequence[str],
    left: Sequence[str] = (),
) -> None:
    if not invocation.as_json:
        for line in lines:
            say(line)
        return
    told = [_as_json(one, kept.get(one.path)) for one in found]
    emit({**(told[0] if path is not None else {"files": told}), "left": list(left)})


def _as_json(found: ClientFile, kept: Path | None) -> dict[str, Any]:
    return {
        "file": str(found.path),
        "client": found.client.kind.value if found.client is not None else None,
        "servers": [
            {
                "name": one.name,
                "source": one.source if one.why_not is None else None,
                "why_not": one.why_not,
                "secrets": list(one.secrets),
                "notes": list(one.notes),
            }
            for one in found.servers
        ],
        "switched": kept is not None,
        "kept": str(kept) if kept is not None else None,
    }


def _outcome(found: Sequence[ClientFile], kept: Mapping[Path, Path]) -> list[str]:
    told = [
        f"What {path} was is in {copy}; --undo gives it back. Restart the client."
        for path, copy in kept.items()
    ]
    told += [
        f"{one.path} is as it was: there is something left to accept, or --keep-client was given."
        for one in found
        if one.governable and one.path not in kept
    ]
    return told


def _what_waits(waiting: Sequence[Found]) -> str:
    names = ", ".join(sorted({one.name for one in waiting}))
    return f"{names} must be told first what its client asks a person for: run `comptroller import` again at a terminal."


def _show_plan(found: Sequence[ClientFile], config: Config | Path) -> None:
    there = _imported(config)
    for each in found:
        say(f"{each.path}{f' ({each.client.title})' if each.client is not None else ''}", bold=True)
        for one in each.servers:
            _show_server(one, is_there=one.source in there)
        say()


def _show_server(one: Found, *, is_there: bool) -> None:
    if one.why_not is not None:
        say(f"  {one.name}: stays as it is and is not governed: {one.why_not}")
        return
    how = one.mcp.get("url") or " ".join([str(one.mcp.get("command")), *map(str, one.mcp.get("args", ()))])
    say(f"  {one.name}: {'is' if is_there else 'becomes'} source `{one.source}`: {how}")
    for file in one.secrets:
        say(f"    a secret of it goes to {{data_dir}}/secrets/{file}")
    for note in one.notes:
        say(f"    {note}")


def _may_go_on(invocation: Invocation, *, yes: bool) -> bool:
    if yes:
        return True
    if invocation.as_json or not at_a_terminal():
        return False
    return click.confirm("Write these sources and start the servers to list their tools?", default=False)


# -- doing ------------------------------------------------------------------------------------------------------------


def _sources_of(found: Sequence[ClientFile]) -> dict[str, Found]:
    return {one.source: one for each in found for one in each.governable}


def _write(config: Config | Path, invocation: Invocation, found: Sequence[ClientFile]) -> None:
    path = config.path if isinstance(config, Config) else config
    there = _imported(config)
    new = [one for source, one in _sources_of(found).items() if source not in there]
    if not new:
        return
    clients = [one.client.kind.value for one in found if one.client is not None]
    target = write_sources(path, invocation.data_dir, new, begun([ANYBODY, *clients]))
    if not invocation.as_json:
        say(f"Wrote {target}.")


def _take_over(
    invocation: Invocation, found: Sequence[ClientFile], file: Path | None, *, yes: bool
) -> Choice:
    """List the tools of what was imported, and accept what a person says."""
    config = installation_of(invocation).config
    answers = asyncio.run(ask(config, _sources_of(found)))
    if not invocation.as_json:
        show_answers(answers)
    choice = choose(answers, file, yes=yes, quiet=invocation.as_json)
    if choice.chosen:
        accepted = accept(config, choice.chosen)
        if not invocation.as_json:
            show_written(accepted, choice.chosen, written_problems(config))
    if not invocation.as_json:
        show_left(choice)
    return choice


def _switch(invocation: Invocation, found: Sequence[ClientFile], client: str | None) -> dict[Path, Path]:
    """Each client's entry last, and only when every server that leaves its file is offered here: path and kept copy."""
    config = installation_of(invocation).config
    if written_problems(config):
        return {}
    kept: dict[Path, Path] = {}
    for one, name in zip(found, _client_names(config, found, client), strict=True):
        missing = [server.name for server in one.governable if not config.pins.get(server.source)]
        if missing:
            if not invocation.as_json:
                say(
                    f"Nothing of {', '.join(missing)} is accepted yet. Mend it, take it out of {one.path}, or let it stay there "
                    f"ungoverned ({' '.join(f'--leave {shlex.quote(name)}' for name in missing)}), and run this again."
                )
        elif one.governable:
            words = serve_words(name, config.path, invocation.data_dir)
            kind = one.client if one.client is not None else next(iter(CLIENTS.values()))
            after = one.switched(kind.entry(words))
            kept[one.path] = switch(config.data_dir, one.path, one.content, after, one.switched_lists)
    return kept


def _client_names(config: Config, found: Sequence[ClientFile], given: str | None) -> list[str]:
    """The client of each file. Asked before anything is written: what is wrong with one leaves all as they are."""
    return [_client_name(config, one, given) for one in found]


def _client_name(config: Config, found: ClientFile, given: str | None) -> str:
    """The configured client that the file belongs to. Raises `CommandError` where there is none."""
    known = config.identity.local.clients
    own = found.client.kind.value if found.client is not None else ANYBODY
    name = given or (own if own in known else ANYBODY)
    if name not in known:
        raise CommandError(
            f"{own if given is None else name!r} is no client of this configuration; add it to "
            "`identity.local.clients`, or name one with --client"
        )
    return name
