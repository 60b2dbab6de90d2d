"""`comptroller import`: the MCP servers of a client become sources here, and the client gets us in their place."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from platformdirs import user_data_path

from comptroller_audit.files import make_private, write_private
from comptroller_server.commands.classify import choose, show_answers, show_written, written_problems
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import CONFIG_NAME, CONFIG_VARIABLE, installation_of
from comptroller_server.commands.showing import emit, say
from comptroller_server.config.loading import FRAGMENTS, load_config
from comptroller_server.config.model import Config
from comptroller_server.errors import CommandError
from comptroller_server.setting_up.clients import serve_words
from comptroller_server.upstreams.accepting import accept
from comptroller_server.upstreams.asking import ask
from comptroller_server.upstreams.importing import ClientFile, Found, read_client_file
from comptroller_server.upstreams.switching import switch, undo

__all__ = ["import_servers"]

_BEGUN = "# Made by `comptroller import`. Every key: docs/config.md\nagent: {name: agent}\n"


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--accept", "file", type=click.Path(path_type=Path, dir_okay=False),
    help="A YAML file `SOURCE: {TOOL: EFFECT}`, as for `classify`.",
)  # fmt: skip
@click.option(
    "--yes", is_flag=True, help="Do everything that is shown, and accept tools as they are proposed."
)
@click.option(
    "--client", default="default", show_default=True, help="Which configured client the file belongs to."
)
@click.option("--keep-client", is_flag=True, help="Leave the client's file as it is.")
@click.option("--undo", "back", is_flag=True, help="Give the client's file the bytes it had before.")
@options()
@click.pass_context
def import_servers(
    ctx: click.Context, path: Path, file: Path | None, yes: bool, client: str, keep_client: bool, back: bool
) -> None:
    """Govern the MCP servers in a client's file (`mcpServers`, as in claude_desktop_config.json).

    Shows what it would do. With a yes it writes each server as a source, moves secrets into private files, lists and
    classifies the tools as `classify` does, and only then puts Comptroller into the client's file in their place. A copy
    is kept; `--undo` restores it byte for byte.
    """
    invocation = invocation_of(ctx)
    if file is not None and yes:
        raise click.UsageError("--accept and --yes say two different things; give one")
    if back:
        restored = undo(_data_dir(invocation), path)
        _tell(invocation, {"restored": str(restored)}, "The client has its file back. The sources stay here.")
        return
    config = _config(invocation)
    there = _imported(config)
    found = read_client_file(path, [name for name in _sources(config) if name not in there])
    new = _new(found, there)
    imported = [one for one in found.servers if one.why_not is None]
    if not invocation.as_json:
        _show_plan(found, there)
    if not imported:
        raise CommandError(f"{found.path} has no server that can be governed here")
    if not _may_go_on(invocation, yes=yes or file is not None):
        _tell(invocation, _as_json(found), "Nothing was written: use a terminal, --accept FILE or --yes.")
        return
    _write(config, invocation, new)
    _take_over(invocation, imported, file, yes=yes)
    kept = None if keep_client else _switch(invocation, found, imported, client)
    text = (
        f"What {found.path} was is in {kept}; --undo gives it back. Restart the client."
        if kept is not None
        else f"{found.path} is as it was: there is something left to accept, or --keep-client was given."
    )
    _tell(invocation, _as_json(found, kept), text)
    if kept is None:
        findings()


def _tell(invocation: Invocation, document: dict[str, Any], text: str) -> None:
    if invocation.as_json:
        emit(document)
    else:
        say(text)


def _as_json(found: ClientFile, kept: Path | None = None) -> dict[str, Any]:
    return {
        "file": str(found.path),
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


def _may_go_on(invocation: Invocation, *, yes: bool) -> bool:
    if yes:
        return True
    if invocation.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm("Write these sources and start the servers to list their tools?", default=False)


def _take_over(invocation: Invocation, imported: Sequence[Found], file: Path | None, *, yes: bool) -> None:
    """List the tools of what was imported, and accept what a person says."""
    config = installation_of(invocation).config
    answers = asyncio.run(ask(config, [one.source for one in imported]))
    if not invocation.as_json:
        show_answers(answers)
    chosen = choose(answers, file, yes=yes, quiet=invocation.as_json)
    if chosen:
        accepted = accept(config, chosen)
        if not invocation.as_json:
            show_written(accepted, chosen, written_problems(config))


def _config(invocation: Invocation) -> Config | Path:
    """The configuration there is, or the path where one will be made."""
    named = invocation.config or (
        Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else Path(CONFIG_NAME)
    )
    invocation.config = named
    return load_config(named, data_dir=invocation.data_dir) if named.is_file() else named.absolute()


def _data_dir(invocation: Invocation) -> Path:
    return (invocation.data_dir or user_data_path("comptroller", appauthor=False)).absolute()


def _sources(config: Config | Path) -> Sequence[str]:
    return list(config.sources) if isinstance(config, Config) else []


def _imported(config: Config | Path) -> dict[str, Any]:
    """Sources that an import wrote before, so that it can be gone on with."""
    if not isinstance(config, Config):
        return {}
    made = {str(file) for file in config.files if file.name.startswith("imported")}
    sources = config.tree.value.get("sources") if isinstance(config.tree.value, dict) else None
    entries = sources.value if sources is not None and isinstance(sources.value, dict) else {}
    plain = {name: node.plain() for name, node in entries.items() if node.file in made}
    return {name: written.get("mcp") for name, written in plain.items() if isinstance(written, dict)}


def _new(found: ClientFile, there: dict[str, Any]) -> list[Found]:
    """The servers that no import has written yet. Raises `CommandError` where one of that name is another."""
    for one in found.servers:
        if one.why_not is None and one.source in there and there[one.source] != one.mcp:
            raise CommandError(
                f"source `{one.source}` is another server than `{one.name}` of {found.path}; rename one of the two"
            )
    return [one for one in found.servers if one.why_not is None and one.source not in there]


def _show_plan(found: ClientFile, there: dict[str, Any]) -> None:
    say(f"{found.path}", bold=True)
    for one in found.servers:
        if one.why_not is not None:
            say(f"  {one.name}: stays as it is and is not governed: {one.why_not}")
            continue
        how = one.mcp.get("url") or " ".join(
            [str(one.mcp.get("command")), *map(str, one.mcp.get("args", ()))]
        )
        say(f"  {one.name}: {'is' if one.source in there else 'becomes'} source `{one.source}`: {how}")
        for file in one.secrets:
            say(f"    a secret of it goes to {{data_dir}}/secrets/{file}")
        for note in one.notes:
            say(f"    {note}")
    say()


def _write(config: Config | Path, invocation: Invocation, new: Sequence[Found]) -> None:
    """Secrets first: a source that refers to nothing does not load."""
    path = config.path if isinstance(config, Config) else config
    if not new:
        return
    secrets = _data_dir(invocation) / "secrets"
    for one in new:
        for name, value in one.secrets.items():
            target = make_private(secrets) / name
            if target.exists() and target.read_text() != value:
                raise CommandError(f"{target} is there already with another value; move it away")
            if not target.exists():
                write_private(target, value.encode())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_BEGUN)
    folder = path.parent / FRAGMENTS
    folder.mkdir(exist_ok=True)
    at = 1
    while (target := folder / ("imported.yaml" if at == 1 else f"imported-{at}.yaml")).exists():
        at += 1
    lines = ["# Servers of a client, as `comptroller import` wrote them. Yours to edit.", "sources:"]
    lines += [
        f"  {json.dumps(one.source)}: {{mcp: {json.dumps(one.mcp, ensure_ascii=False)}}}" for one in new
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not invocation.as_json:
        say(f"Wrote {target}.")


def _switch(invocation: Invocation, found: ClientFile, imported: Sequence[Found], client: str) -> Path | None:
    """The client's entry last, and only when every server that leaves its file is offered here; None when not."""
    config = installation_of(invocation).config
    missing = [one.name for one in imported if not config.pins.get(one.source)]
    if missing or written_problems(config):
        if missing and not invocation.as_json:
            say(f"Nothing of {', '.join(missing)} is accepted yet; run this again when it can be.")
        return None
    if client not in config.identity.local.clients:
        raise CommandError(
            f"{client!r} is no client of this configuration; add it to `identity.local.clients`, or name one with --client"
        )
    program, *args = serve_words(client, config.path, invocation.data_dir)
    entry = {"command": program, "args": args}
    after = found.switched(entry, [one.name for one in imported])
    return switch(config.data_dir, found.path, found.content, after)
