"""What every command is told on the command line, and how each of them ends when it cannot do its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from comptroller_server.commands.showing import emit, plain

__all__ = ["EXIT_FAILED", "Invocation", "findings", "invocation_of", "options"]

F = TypeVar("F", bound=Callable[..., Any])
EXIT_FINDINGS = 1
EXIT_FAILED = 2
"""Usage, configuration, or something broke. 1 is for findings: the command worked and the answer is no."""


@dataclass(slots=True)
class Invocation:
    """The options that hold for all commands, wherever on the line they stood."""

    config: Path | None = None
    data_dir: Path | None = None
    as_json: bool = False
    log_json: bool = False

    def failed(self, error: Exception) -> None:
        """Say what kept the command from its work: on stderr, and as the JSON document if one was asked for."""
        from comptroller_server.commands.logs import released_line

        told: list[dict[str, str]] = [
            {"where": finding.where, "message": released_line(finding.message)}
            for finding in getattr(error, "findings", ())
        ]
        text = released_line(str(error))
        if self.as_json:
            emit({"ok": False, "error": text, "findings": told})
        for line in text.splitlines():
            click.echo(f"comptroller: {plain(line)}", err=True)

    def broken(self, error: Exception) -> None:
        """A defect of ours: the traceback goes to the log, the sentence to the person."""
        import structlog

        structlog.stdlib.get_logger().error("defect in the command line", exc_info=error)
        self.failed(
            RuntimeError(f"internal error ({type(error).__name__}); the log above is for the maintainers")
        )


def invocation_of(ctx: click.Context) -> Invocation:
    """The one invocation, made when the first option of the line is read."""
    invocation = ctx.find_root().ensure_object(Invocation)
    assert isinstance(invocation, Invocation)
    return invocation


def findings() -> NoReturn:
    """End with exit code 1: the command did its work, and the answer is no."""
    click.get_current_context().exit(EXIT_FINDINGS)


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value not in (None, False):
            setattr(invocation_of(ctx), name, value)

    return callback


def _set_log_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    from comptroller_server.commands.logs import log_to_stderr

    if value:
        invocation_of(ctx).log_json = True
        log_to_stderr(as_json=True)


def options(*, as_json: bool = True) -> Callable[[F], F]:
    """Give a command `--config`, `--data-dir`, `--log-json` and, unless its output is not its own, `--json`."""
    path = click.Path(path_type=Path)
    given = [
        click.option(
            "--config",
            type=path,
            expose_value=False,
            callback=_set("config"),
            help="Configuration file. [default: $COMPTROLLER_CONFIG, ./comptroller.yaml, the user's config folder]",
        ),
        click.option(
            "--data-dir",
            type=path,
            expose_value=False,
            callback=_set("data_dir"),
            help="What {data_dir} stands for. [default: the user's data folder]",
        ),
        click.option(
            "--log-json", is_flag=True, expose_value=False, callback=_set_log_json, help="Log as JSON lines."
        ),
    ]
    if as_json:
        given.append(
            click.option(
                "--json",
                is_flag=True,
                expose_value=False,
                callback=_set("as_json"),
                help="One JSON document on standard output.",
            )
        )

    def decorate(command: F) -> F:
        for option in reversed(given):
            command = option(command)
        return command

    return decorate
