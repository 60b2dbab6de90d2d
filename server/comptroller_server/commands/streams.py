"""`comptroller streams`: how far each stream is, delivering now, and sending one on from another place of the log."""

from __future__ import annotations

from dataclasses import asdict

import click
from click.shell_completion import CompletionItem

from comptroller_audit.unit import Committed, Unit
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import account, installation_of, on_store
from comptroller_server.commands.showing import at, emit, say, show_list
from comptroller_server.errors import CommandError, ConfigInvalid
from comptroller_server.installation import TENANT, Installation
from comptroller_server.streaming.cursors import STREAMS, Reset, fresh
from comptroller_server.streaming.status import stream_states
from comptroller_server.streaming.streamer import Round, Streams

__all__ = ["streams"]


class _StreamName(click.ParamType[str]):
    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            known = installation_of(ctx.find_root().ensure_object(Invocation)).config.streams
        except (CommandError, ConfigInvalid):
            return []
        return [CompletionItem(each) for each in known if each.startswith(incomplete)]


@click.group()
def streams() -> None:
    """Copies of the record for other places, as `streams` in the configuration names them."""


@streams.command("list")
@options()
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Each stream: where to, the next entry it gets, how many wait, and what went wrong last.

    Example: comptroller streams list --json
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> list[dict[str, object]]:
        config = installation.config
        states = await installation.store.read(lambda reader: stream_states(reader, config.streams))
        return [asdict(state) for state in states]

    found = on_store(invocation, work)
    rows = [
        (
            str(each["name"]),
            str(each["to"]),
            str(each["place"]),
            str(each["position"]),
            str(each["lag"]),
            at(each["taken_ms"]) if isinstance(each["taken_ms"], int) and each["taken_ms"] else "never",
            str(each["error"]) or "-",
        )
        for each in found
    ]
    headers = ("stream", "to", "place", "position", "lag", "delivered", "error")
    show_list(invocation.as_json, {"streams": found}, headers, rows, "No `streams` are configured.")


@streams.command()
@click.option("--once", is_flag=True, help="End when everything that is new was delivered.")
@options()
@click.pass_context
def run(ctx: click.Context, once: bool) -> None:
    """Deliver without serving: until it is stopped, or once, for cron. A serving process does it by itself.

    Exit code 1 when a sink did not take everything. Example: comptroller streams run --once
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> dict[str, Round]:
        delivering = Streams(lambda: installation, installation.ambient.clock)
        if not delivering.configured:
            raise CommandError("no `streams` are configured; docs/streams.md says how")
        if not once:
            await delivering.run()
        if not delivering.take():
            raise CommandError(
                "another process of this store delivers its streams already (`comptroller serve`); nothing is left to do here"
            )
        try:
            return await delivering.once()
        finally:
            delivering.release()

    done = on_store(invocation, work)
    if invocation.as_json:
        told = {
            name: {"delivered": each.delivered, "error": each.error or None} for name, each in done.items()
        }
        emit({"ok": not any(each.error for each in done.values()), "streams": told})
    else:
        for name, each in done.items():
            say(
                f"{name}: {each.delivered} entries delivered{f'; held up: {each.error}' if each.error else ''}."
            )
    if any(each.error for each in done.values()):
        findings()


@streams.command()
@click.argument("name", type=_StreamName())
@click.option(
    "--to", "position", type=click.IntRange(min=0), required=True, help="Index of the next entry it gets."
)
@options()
@click.pass_context
def reset(ctx: click.Context, name: str, position: int) -> None:
    """Send a stream on from another place: further back to deliver again, further on to leave entries out.

    Example: comptroller streams reset siem --to 0
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> int:
        if name not in installation.config.streams:
            known = ", ".join(installation.config.streams) or "none"
            raise CommandError(f"no stream is called {name!r}; there are: {known}")
        row = await installation.store.read(lambda reader: reader.row(TENANT, STREAMS, name))
        outcome = await installation.store.commit(TENANT, Unit([Reset(name, position, account())]))
        if not isinstance(outcome, Committed):
            raise CommandError(f"the log has no entry {position} yet; see `comptroller streams list`")
        return int((row or fresh())["position"])

    before = on_store(invocation, work)
    if invocation.as_json:
        emit({"stream": name, "before": before, "position": position})
    elif position > before:
        say(f"{name} goes on at entry {position}; the entries from {before} on before it are left out.")
    else:
        say(f"{name} goes on at entry {position}; it was at {before}.")
