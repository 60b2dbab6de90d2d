from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comptroller_audit.vocabulary import PrincipalKind
from comptroller_server.errors import IdentityError
from comptroller_server.face.identity import LocalIdentity


def identity(folder: Path, *clients: str, subject: str | None = "ana") -> LocalIdentity:
    return LocalIdentity("store-1", subject, ["support_agent"], clients or ("bot", "desk"), folder / "tokens")


def token_of(who: LocalIdentity, client: str) -> str:
    return who.token_file(client).read_text().strip()


def test_the_person_is_the_principal_and_the_client_the_actor(tmp_path: Path) -> None:
    subject = identity(tmp_path).stdio_subject("bot")
    assert (subject.tenant, subject.principal.issuer, subject.principal.subject) == (
        "local",
        "local:store-1",
        "ana",
    )
    assert subject.principal.kind is PrincipalKind.LOCAL
    assert subject.actor.id == "bot"
    assert subject.roles == {"support_agent"}


def test_the_subject_is_the_user_id_unless_configured(tmp_path: Path) -> None:
    assert identity(tmp_path, subject=None).principal.subject == str(os.getuid())


def test_a_client_that_is_not_configured_has_no_subject(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"'other' is not configured \(configured: bot, desk\)"):
        identity(tmp_path).stdio_subject("other")


def test_stdio_needs_no_token_file(tmp_path: Path) -> None:
    identity(tmp_path).stdio_subject("bot")
    assert not (tmp_path / "tokens").exists()


def test_each_client_gets_a_token_of_its_own_that_only_the_owner_can_read(tmp_path: Path) -> None:
    who = identity(tmp_path)
    files = who.load_tokens()
    assert files == {name: tmp_path / "tokens" / f"{name}.token" for name in ("bot", "desk")}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o700
    assert token_of(who, "bot") != token_of(who, "desk")
    assert len(token_of(who, "bot")) >= 43
    assert sorted(os.listdir(tmp_path / "tokens")) == ["bot.token", "desk.token"]


def test_a_token_names_the_actor(tmp_path: Path) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    for client in ("bot", "desk"):
        assert who.verify(token_of(who, client)) == who.stdio_subject(client)


def test_a_token_survives_a_restart_and_a_deleted_one_does_not(tmp_path: Path) -> None:
    first = identity(tmp_path)
    first.load_tokens()
    bot, desk = token_of(first, "bot"), token_of(first, "desk")
    first.token_file("desk").unlink()
    second = identity(tmp_path)
    second.load_tokens()
    assert second.verify(bot) is not None
    assert second.verify(desk) is None


def test_what_is_not_exactly_the_token_proves_nobody(tmp_path: Path) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    token = token_of(who, "bot")
    flipped = ("A" if token[0] != "A" else "B") + token[1:]
    for wrong in (
        "",
        token[:-1],
        token + "A",
        flipped,
        token.swapcase(),
        f" {token}",
        token + "\n",
        "é" * 43,
    ):
        assert who.verify(wrong) is None, wrong


def test_nobody_is_known_before_the_tokens_are_loaded(tmp_path: Path) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    token = token_of(who, "bot")
    assert identity(tmp_path).verify(token) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_token_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    who.token_file("bot").chmod(mode)
    with pytest.raises(IdentityError, match=r"bot\.token is open to other users \(mode 0\d\d\d\)"):
        identity(tmp_path).load_tokens()


@pytest.mark.parametrize("text", ["", "short\n", "x" * 500, "two words " * 5, "é" * 43])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, text: str) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    who.token_file("bot").write_text(text)
    with pytest.raises(IdentityError, match="holds no token"):
        who.load_tokens()


def test_a_copied_token_is_refused_for_it_could_not_name_the_actor(tmp_path: Path) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    who.token_file("desk").write_text(token_of(who, "bot"))
    with pytest.raises(IdentityError, match="holds the token of client 'bot'"):
        who.load_tokens()


def test_a_token_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    who.token_file("bot").rename(tmp_path / "elsewhere")
    who.token_file("bot").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityError, match="cannot be read"):
        who.load_tokens()


def test_a_token_file_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    who = identity(tmp_path)
    who.load_tokens()
    who.token_file("bot").unlink()
    os.mkfifo(who.token_file("bot"), 0o600)
    with pytest.raises(IdentityError, match="not a regular file"):
        who.load_tokens()


def test_a_token_folder_that_others_can_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens").chmod(0o777)
    with pytest.raises(IdentityError, match="can be changed by other users"):
        identity(tmp_path).load_tokens()


@pytest.mark.parametrize("name", ["", "../bot", "a/b", ".hidden", "a b", "x" * 65, "bot\n", "bör"])
def test_a_client_name_that_cannot_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IdentityError, match="client name"):
        identity(tmp_path, name)


def test_client_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="differ only in case"):
        identity(tmp_path, "Bot", "bot")


@pytest.mark.parametrize("subject", ["", "  ", "a\nb", "x" * 257])
def test_a_subject_that_would_spoil_a_record_is_refused(tmp_path: Path, subject: str) -> None:
    with pytest.raises(IdentityError, match=r"identity\.local\.subject"):
        identity(tmp_path, subject=subject)


def test_processes_that_start_together_agree_on_the_tokens(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from comptroller_server.face.identity import LocalIdentity\n"
        "who = LocalIdentity('s', 'ana', [], ['bot'], Path(sys.argv[1]))\n"
        "who.load_tokens(); print(who.token_file('bot').read_text().strip())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "tokens")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    tokens = {process.communicate(timeout=60)[0] for process in started}
    assert len(tokens) == 1
    assert len(tokens.pop().strip()) >= 43
    assert os.listdir(tmp_path / "tokens") == ["bot.token"]
