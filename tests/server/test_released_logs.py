"""What is logged has gone through the one road: events, values, tracebacks, and what libraries say."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator

import pytest
import structlog

from comptroller_audit.redaction import Pattern, Release
from comptroller_server.commands.logs import (
    LIBRARY_CHARS_MAX,
    LIBRARY_LINES_PER_S_MAX,
    log_to_stderr,
    release_logs,
)

SECRET = "hunter2-swordfish"
ADDRESS = "mira.holt@example.org"
CALL = "01a203a1-e711-72b4-8dk2-12345678901f".replace("k", "a")


@pytest.fixture(autouse=True)
def nothing_to_release_afterwards() -> Generator[None]:
    yield
    log_to_stderr()


class Odd:
    def __repr__(self) -> str:
        return f"Odd({ADDRESS})"


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_that_is_logged_shows_what_must_not_be_shown(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    log_to_stderr(as_json)
    release_logs(Release([SECRET], set(Pattern)))
    log = structlog.stdlib.get_logger("comptroller.test")
    log.warning(f"for {ADDRESS}", who=ADDRESS, odd=Odd(), nested={"a": [SECRET]}, call=CALL, number=7)
    try:
        int(f"no {ADDRESS} with {SECRET}")
    except ValueError:
        log.exception("broken", call=CALL)
    logging.getLogger("some.library").error("asked %s for %s", ADDRESS, SECRET)
    err = capsys.readouterr().err
    assert ADDRESS not in err
    assert SECRET not in err
    assert err.count(CALL) == 2
    assert err.count("[withheld: email]") >= 5
    assert "ValueError" in err
    assert "7" in err


def test_without_a_configuration_logs_are_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    release_logs(Release([SECRET], set(Pattern)))
    log_to_stderr()
    structlog.stdlib.get_logger("comptroller.test").warning(f"for {ADDRESS}")
    assert ADDRESS in capsys.readouterr().err


def test_ids_of_ours_are_in_the_log_whatever_their_digits_look_like(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr()
    release_logs(Release((), set(Pattern)))
    like_an_iban = "01a203a1-e711-72b4-8a3c-ee12003012345678"[:36]
    for call in (like_an_iban, str(uuid.UUID(int=uuid.UUID(like_an_iban).int ^ 5))):
        structlog.stdlib.get_logger("comptroller.test").warning("done", call=call)
        assert call in capsys.readouterr().err


def test_libraries_fill_no_log_with_what_others_sent(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    theirs, ours = logging.getLogger("mcp.client.session"), logging.getLogger("comptroller_server.test")
    try:
        int("9x" * 50_000)
    except ValueError:
        theirs.warning("Failed to read: %s", "z" * 50_000, exc_info=True)
    for at in range(500):
        theirs.error("flood %s", at)
        ours.error("own %s", at)
    err = capsys.readouterr().err
    assert "ValueError at " in err
    assert "Traceback" not in err
    assert err.count("own ") == 500
    assert err.count("flood ") <= 2 * LIBRARY_LINES_PER_S_MAX  # a second may begin in between
    assert len([line for line in err.splitlines() if len(line) > LIBRARY_CHARS_MAX + 400]) == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_a_library_that_logs_with_structlog_is_heard_and_breaks_nothing(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    log_to_stderr(as_json)
    structlog.get_logger("some.library").warning(
        "tried again", what="x" * 10_000, exc_info=ValueError(SECRET)
    )
    said = capsys.readouterr().err
    assert "tried again" in said
    assert len(said) < 3_000
    assert SECRET not in said


def test_a_record_that_cannot_be_written_breaks_nothing_it_tells_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr()

    class Unwritable:
        def __str__(self) -> str:
            raise RuntimeError(SECRET)

    logging.getLogger("comptroller.x").warning(Unwritable())
    assert SECRET not in capsys.readouterr().err
