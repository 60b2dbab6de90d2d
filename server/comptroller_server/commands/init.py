"""`comptroller init`: a first configuration from a few answers, an approver, and what the client needs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from comptroller_audit.files import make_private
from comptroller_policy.approvers import approver_names
from comptroller_server.commands.check import Checked, checked_as_json, run_check, show_checked
from comptroller_server.commands.enrolling import Enrolled, enrol, show_enrolled
from comptroller_server.commands.init_questions import Given, answered
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import on_store, quiet_stdout
from comptroller_server.commands.showing import emit, say
from comptroller_server.config.loading import data_directory
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.setting_up.answers import Answers, SourceKind
from comptroller_server.setting_up.clients import CLIENTS, ClientKind
from comptroller_server.setting_up.documents import CONFIG, documents
from comptroller_server.setting_up.placing import place
from comptroller_server.setting_up.proposing import Proposed, proposed_tools
from comptroller_server.setting_up.starting import serve_words, start_words

__all__ = ["init"]

ROLE = "approver"
"""What the person is enrolled as; the gates that are written ask for it."""


@click.command()
@click.argument(
    "folder", metavar="[DIR]", default=Path("."), type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--yes", is_flag=True, help="Ask nothing: what no flag says is the default.")
@click.option("--agent", metavar="NAME", help="What the agent is called. [default: the folder's name]")
@click.option("--objective", metavar="TEXT", help="What it is for, in a sentence.")
@click.option(
    "--source",
    type=click.Choice([one.value for one in SourceKind]),
    help="Where tools come from. [default: desk, the sample]",
)
@click.option("--python", metavar="TARGET", help="Functions of your own: a file, or a module.")
@click.option("--command", metavar="WORDS", help="An MCP server, by the command that starts it.")
@click.option("--url", help="An MCP server, by its URL.")
@click.option("--client-file", type=click.Path(path_type=Path, dir_okay=False), help="A client's file, to import from.")  # fmt: skip
@click.option(
    "--client",
    type=click.Choice([one.value for one in ClientKind]),
    help="Who will connect. [default: whose --client-file it is, else claude-desktop]",
)
@click.option("--calls", type=click.IntRange(1, 1_000_000), help="Calls in one task. [default: 50]")
@click.option(
    "--minutes", type=click.IntRange(1, 1_000_000), help="Minutes of work in one task. [default: 30]"
)
@click.option("--unit", metavar="NAME", help="What money is counted in. [default: usd]")
@click.option("--most", metavar="AMOUNT", help="The most of it in one call. [default: 50]")
@click.option("--approver", metavar="NAME", help="Who approves. [default: this account's name]")
@click.option(
    "--no-approver",
    "nobody",
    is_flag=True,
    help="Enrol nobody now; the first is enrolled before the first `serve`, or never.",
)
@click.option("--credential-out", type=click.Path(path_type=Path), help="Write the approver's credential to this new file (mode 0600).")  # fmt: skip
@click.option(
    "--force", is_flag=True, help="Write over what is there, and go on with the store of that agent."
)
@options()
@click.pass_context
def init(
    ctx: click.Context, /, folder: Path, yes: bool, credential_out: Path | None, force: bool, **flags: Any
) -> None:
    """Write a first configuration into DIR, enrol who approves, check it, and show what the client needs.

    Asks on a terminal what no flag says. Files that are there stay as they are.
    """
    invocation = invocation_of(ctx)
    if invocation.config is not None:
        raise click.UsageError(f"init makes {CONFIG} in DIR; name the folder instead of --config")
    asking = not yes and not invocation.as_json and _at_a_terminal()
    given = Given(folder.absolute(), **flags)
    if (
        not asking
        and not yes
        and not any((given.source, given.python, given.command, given.url, given.client_file))
    ):
        raise click.UsageError("there is no terminal to ask at: give --source and what it needs, or --yes")
    answers = answered(given, asking=asking)
    begun = Begun.of(invocation, answers, credential_out, force=force)
    if invocation.as_json:
        emit(begun.as_json())
    else:
        begun.show()
    if begun.checked.findings or (begun.enrolled is not None and begun.enrolled.problem is not None):
        findings()


def _at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


@dataclass(frozen=True, slots=True)
class Begun:
    """What `init` did. `notes` are what a person should know of it."""

    answers: Answers
    written: Sequence[Path]
    notes: Sequence[str]
    enrolled: Enrolled | None
    checked: Checked
    data_dir: Path | None

    @classmethod
    def of(cls, invocation: Invocation, answers: Answers, out: Path | None, *, force: bool) -> Begun:
        """Everything that can be refused is refused before the first file is written."""
        _refuse_credential_file(out, answers.approver)
        data_dir = data_directory(invocation.data_dir)
        store = data_dir / answers.store / "comptroller.db"
        if store.exists() and not force:
            raise CommandError(
                f"an agent of this name has its records in {store.parent}; choose another --agent, or go on with "
                "them by --force"
            )
        tools = _tools(answers)
        notes = _notes(answers, tools)
        known = store.exists()
        try:
            make_private(data_dir)
        except OSError as error:
            raise CommandError(
                f"the data directory {data_dir} cannot be made ({error.strerror}); name another with --data-dir"
            ) from error
        written = place(answers.folder, documents(answers, tools), force=force)
        invocation.config = answers.folder / CONFIG
        enrolled = None
        if answers.approver is not None and known and answers.approver in _enrolled(invocation):
            notes.append(f"{answers.approver} is enrolled there already, with the credential they have.")
        elif answers.approver is not None:
            enrolled = enrol(invocation, answers.approver, [ROLE], out, None)
        return cls(answers, written, notes, enrolled, run_check(invocation), invocation.data_dir)

    @property
    def next(self) -> list[str]:
        """The commands to go on with."""
        config = ["--config", str(self.answers.folder / CONFIG)]
        if self.data_dir is not None:
            config += ["--data-dir", str(self.data_dir.absolute())]
        first = {
            SourceKind.IMPORT: [
                "import",
                str(self.answers.client_file),
                "--client",
                self.answers.client.value,
            ],
            SourceKind.MCP: ["classify"],
        }.get(self.answers.source, ["doctor"])
        then = [["approvals", "list"]] if first == ["doctor"] else [["check"]]
        if self.answers.approver is None:
            then.append(["approver", "add", "NAME", "--role", ROLE])
        played = {".test.yaml": ["policy", "test"], ".eval.yaml": ["eval", "run"]}
        names = [path.name for path in self.written]
        then = [words for end, words in played.items() if any(name.endswith(end) for name in names)] + then
        return [shlex.join([*start_words(), *words, *config]) for words in (first, *then)]

    @property
    def snippet(self) -> str:
        config = self.answers.folder / CONFIG
        return CLIENTS[self.answers.client].over_stdio(
            serve_words(self.answers.client, config, self.data_dir)
        )

    def as_json(self) -> dict[str, Any]:
        client = CLIENTS[self.answers.client]
        enrolled = self.enrolled
        return {
            "ok": not self.checked.findings and (enrolled is None or enrolled.problem is None),
            "written": [str(path) for path in self.written],
            "notes": list(self.notes),
            "approver": None
            if enrolled is None
            else {"name": enrolled.name, "problem": enrolled.problem, **enrolled.shown()},
            "check": checked_as_json(self.checked),
            "next": self.next,
            "client": {"name": client.kind, "where": client.where, "snippet": self.snippet},
        }

    def show(self) -> None:
        for path in self.written:
            say(f"Wrote {path}")
        for note in self.notes:
            say(note)
        if self.enrolled is not None:
            say()
            show_enrolled(self.enrolled)
        say()
        say("Checked:", bold=True)
        show_checked(self.checked)
        say()
        say("Next:", bold=True)
        for line in self.next:
            say(f"  {line}")
        client = CLIENTS[self.answers.client]
        say()
        say(f"For {client.title}, in {client.where}:", bold=True)
        for line in self.snippet.splitlines():
            say(line)


def _refuse_credential_file(out: Path | None, approver: str | None) -> None:
    """A credential that could not be kept would be found out too late, with a person enrolled."""
    if out is None:
        return
    if approver is None:
        raise CommandError(
            "--credential-out is for the credential of an approver, and nobody is to be enrolled"
        )
    if out.exists() or out.is_symlink():
        raise CommandError(f"{out} is there already; name a new file for the credential")
    if not out.absolute().parent.is_dir():
        raise CommandError(
            f"there is no folder {out.absolute().parent} for the credential; make it, or name another"
        )


def _tools(answers: Answers) -> list[Proposed]:
    if answers.source is not SourceKind.PYTHON:
        return []
    with quiet_stdout():
        return proposed_tools(answers, answers.folder)


def _notes(answers: Answers, tools: Sequence[Proposed]) -> list[str]:
    if answers.source is not SourceKind.PYTHON or any(tool.money for tool in tools):
        return []
    text = (
        f"No function takes a number called an amount, or by `{answers.limits.unit}`, so nothing limits money yet: add "
        "`constraints` and `units` to the entry of the one that moves it."
    )
    return [text]


def _enrolled(invocation: Invocation) -> set[str]:
    async def names(installation: Installation) -> set[str]:
        known = await installation.store.read(lambda reader: approver_names(reader, TENANT))
        return {one.name for one in known}

    return on_store(invocation, names)
