"""`comptroller completion`: the script with which a shell completes our commands."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from comptroller_server.commands.invocation import invocation_of, options
from comptroller_server.commands.showing import emit

__all__ = ["completion"]

_VARIABLE = "_COMPTROLLER_COMPLETE"
_WHERE = {
    "bash": "~/.local/share/bash-completion/completions/comptroller",
    "zsh": "a folder of $fpath, as _comptroller",
    "fish": "~/.config/fish/completions/comptroller.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_WHERE)))
@options()
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes our commands in SHELL.

    \b
    bash  comptroller completion bash > ~/.local/share/bash-completion/completions/comptroller
    zsh   comptroller completion zsh > "${fpath[1]}/_comptroller"
    fish  comptroller completion fish > ~/.config/fish/completions/comptroller.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # The class for bash would start one, to see how old it is; the script is the same for all.
    script = ShellComplete.source(kind(ctx.find_root().command, {}, "comptroller", _VARIABLE))
    if invocation_of(ctx).as_json:
        emit({"shell": shell, "where": _WHERE[shell], "script": script})
    else:
        click.echo(script)
