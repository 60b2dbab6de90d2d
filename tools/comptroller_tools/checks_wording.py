"""Ready-made checks: does a draft say what policy bars? The part that needs no judgement: phrases, however written."""

from __future__ import annotations

import unicodedata

from comptroller_tools.checks import CallView, CheckVerdict, DataPath, Failed, Passed, Unknown

__all__ = ["says_nothing_barred"]


def says_nothing_barred(
    call: CallView, *, text: DataPath, phrases: DataPath = "", also: tuple[str, ...] = ()
) -> CheckVerdict:
    """The text at `text` has none of the phrases in the list at `phrases`, nor of `also`.

    Case, accents, compatibility forms, invisible characters, line breaks and punctuation make no difference; a phrase
    is found as whole words. With no phrase at all nothing would be checked, which is `Unknown`.
    """
    barred = [*(call.value(phrases) if phrases else ()), *also]
    wanted = {phrase: _words(phrase) for phrase in barred}
    if not any(wanted.values()):
        return Unknown("no phrase is barred, so there is nothing to check against")
    said = f" {_words(call.value(text))} "
    found = [phrase for phrase, words in wanted.items() if words and f" {words} " in said]
    if not found:
        return Passed()
    return Failed(f"The text says {', '.join(repr(phrase) for phrase in found[:5])}, which policy bars.")


def _words(text: str) -> str:
    """The words alone, in one spelling, with one space between."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    # Apostrophes belong to their word, as do marks and characters that show nothing.
    kept = "".join(c for c in plain if c not in "'’ʼ`" and unicodedata.category(c) not in ("Mn", "Cf"))
    return " ".join("".join(c if c.isalnum() else " " for c in kept).split())
