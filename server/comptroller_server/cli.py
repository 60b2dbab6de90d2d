"""`comptroller`: the command line. A command's module is loaded when it is used, so a start costs what it needs."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from comptroller_audit.vocabulary import ComptrollerError
from comptroller_server import __version__
from comptroller_server.commands.invocation import EXIT_FAILED, invocation_of, options
from comptroller_server.process_signals import end_as_interrupted, leave

__all__ = ["EXIT_FAILED", "cli", "main"]

_COMMANDS = {
    "init": ("init:init", "Write a first configuration, from a few questions or from flags."),
    "check": ("check:check", "Check configuration, policies, keys and store; change nothing."),
    "doctor": (
        "doctor:doctor",
        "Look at the machine, the disk, the files, the clock and the clients; change nothing.",
    ),
    "config": ("config:config", "What `comptroller.yaml` may say, for editors."),
    "import": (
        "import_servers:import_servers",
        "Govern the MCP servers of a client; take them over from its file.",
    ),
    "classify": ("classify:classify", "The tools of MCP servers: what is new or changed, and accepting it."),
    "serve": ("serve:serve", "Serve the governed tools to MCP clients, over stdio or HTTP."),
    "demo": ("demo:demo", "Play the whole story on the embedded support desk."),
    "approver": ("approvers:approver", "Enrol the people who may approve."),
    "approvals": ("approvals:approvals", "Look at what waits for a person, and decide it."),
    "calls": ("calls:calls", "List and show calls; settle one that is in doubt."),
    "tasks": ("tasks:tasks", "List and show tasks, and take back what one did."),
    "handoffs": ("handoffs:handoffs", "Work that agents gave to people: look at it, and close it."),
    "budgets": ("budgets:budgets", "Every limit: used, held, left, and when it resets."),
    "watch": ("watch:watch", "What goes on now, live: what waits for a person, calls, tasks, budgets."),
    "why": ("why:why", "Everything about one call, on one screen."),
    "report": ("report:report", "Success, cost, containment and latency of all calls; a gate, a page."),
    "suggest": (
        "suggest:suggest",
        "What recorded calls used, as the least of a configuration; nothing is applied.",
    ),
    "policy": ("policy:policy", "Show, test and compare the policies; explain a decision."),
    "bundle": ("bundle:bundle", "Which rules are in force; put others in force, and go back."),
    "eval": ("evaluate:evaluate", "Play scenarios end to end in a sandbox; make them of recorded calls."),
    "replay": ("replay:replay", "Decide recorded calls again under another configuration."),
    "halt": ("switches:halt", "Stop a tool, a task, a principal, or everything."),
    "resume": ("switches:resume", "Lift what `halt` set."),
    "rollout": ("rollout:rollout", "How far tools go without a person; promote and demote."),
    "audit": ("audit:audit", "Verify the log, and follow it."),
    "evidence": ("evidence:evidence", "What an auditor asks for about a period, a file a topic."),
    "db": ("db:db", "Back the store up, bring it back, and go on with an old copy."),
    "keys": ("keys:keys", "The keys that seal and sign: which there are, and new ones."),
    "hold": ("hold:hold", "Legal holds: what neither retention nor anybody erases."),
    "erase": ("erase:erase", "Erase what the record holds about one person."),
    "retention": ("retention:retention", "Erase payloads whose time is over."),
    "streams": (
        "streams:streams",
        "Copies of the record for other places: how far each is, and sending it on.",
    ),
    "completion": ("completion:completion", "The script that completes our commands in a shell."),
}


_DISK_REFUSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_MEANT = {
    "tui": "watch",
    "start": "serve",
    "run": "serve",
    "stop": "halt",
    "validate": "check",
    "verify": "audit verify",
}
"""What other programs call the same."""


class _Commands(click.Group):
    """Finds commands by name without loading the others, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        found: Any = getattr(import_module(f"comptroller_server.commands.{module}"), name)
        gc.enable()
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        said = args[0]
        if said not in _COMMANDS and not said.startswith("-"):
            from difflib import get_close_matches

            near = [_MEANT[said]] if said in _MEANT else get_close_matches(said, _COMMANDS, 1)
            if near:
                ctx.fail(f"No such command {said!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        named = [(name, text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)]
        return [
            *(CompletionItem(name, help=text) for name, text in named),
            *_of_options(self, ctx, incomplete),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise click.UsageError(f"{word!a} is not UTF-8; write it as the terminal shows it.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        invocation = invocation_of(ctx)
        try:
            from comptroller_server.commands.logs import log_to_stderr

            log_to_stderr()
            return super().invoke(ctx)
        except ComptrollerError as error:
            invocation.failed(error)
        except BrokenPipeError:  # the reader of our output had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(0)
        except (click.Abort, KeyboardInterrupt, EOFError):
            _tell_stopped()
        except (click.ClickException, click.exceptions.Exit):
            raise
        except OSError as error:
            if error.errno not in _DISK_REFUSES:
                invocation.broken(error)
                return ctx.exit(EXIT_FAILED)
            invocation.as_json = False  # it may be standard output that takes no more
            invocation.failed(OSError(_told(error)))
        except Exception as error:  # noqa: BLE001 -- whatever broke, the exit code must not read as findings
            invocation.broken(error)
        return ctx.exit(EXIT_FAILED)


def _of_options(group: click.Group, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return click.Command.shell_complete(group, ctx, incomplete)


_EPILOG = (
    "Exit codes: 0 fine, 1 findings (the answer is no), 2 usage, configuration or an internal error. Results go to "
    "standard output, logs to standard error. `comptroller completion SHELL` completes these words in bash, zsh and fish."
)


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="comptroller")
@options(as_json=False)
def cli() -> None:
    """Comptroller: governed tools for any MCP client.

    Policy, budgets, approvals, verification and a tamper-evident log around every call. Options of this level may
    also stand after the command.
    """


def main() -> None:
    """The console script. Loading modules makes no garbage, and looking for some took a fifth of the start."""
    gc.disable()
    end_as_interrupted()
    code = EXIT_FAILED
    try:
        ended = cli.main(prog_name="comptroller", standalone_mode=False)
        code = ended if isinstance(ended, int) else 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):  # click takes it for findings, which are 1
        _tell_stopped()
    except OSError as error:  # it has not come to `invoke`: the help, the version
        with contextlib.suppress(OSError):
            click.echo(f"comptroller: {_told(error)}", err=True)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else EXIT_FAILED
    leave(code, EXIT_FAILED)


def _told(error: OSError) -> str:
    where = error.filename or "what it prints, or a file,"
    return f"{where} cannot be written: {error.strerror}. Make room, or write elsewhere, and run it again"


def _tell_stopped() -> None:
    with contextlib.suppress(OSError):  # the terminal is gone, and that is why
        click.echo("Stopped.", err=True)


if __name__ == "__main__":
    main()
