"""Two engines read each expression: one says that there is nothing to find, the other where it is. They must agree."""

from __future__ import annotations

import re
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from comptroller_audit import credentials, disguises, linear, patterns
from comptroller_audit.linear import SHORT_CHARS_MAX, Expression

_EXPRESSIONS = [
    found
    for module in (credentials, disguises, patterns)
    for found in vars(module).values()
    if isinstance(found, Expression)
]
# What the expressions are about, in pieces: put together they often match, or nearly do.
_PIECES = sorted(
    {
        piece
        for found in _EXPRESSIONS
        for piece in re.findall(r"[A-Za-z0-9@:/=+_\-]{2,}", found.pattern.replace(r"\b", " "))
    }
    | {"4111 1111 1111 1111", "a@b.co", "DE89370400440532013000", "555-867-5309", "1234", "078-05-1120"}
    | {
        "A" * 40,
        "a1" * 20,
        "\x1e",
        "\x1f",
        " ",
        "=",
        ": ",
        "://",
        "@",
        "-----",
        "\r\n",
        "_",
        ".",
        "'",
        '"',
        "\x00",
        "\x7f",
    }
)
_TEXTS = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=8).map("".join),
    st.lists(
        st.one_of(st.sampled_from(_PIECES), st.text(st.characters(max_codepoint=127), max_size=6)), max_size=8
    ).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_what_is_said_to_be_missing_is_found_by_nobody(text: str) -> None:
    for each in _EXPRESSIONS:
        found = any(True for _ in each._compiled.finditer(text.encode("ascii")))  # pyright: ignore[reportPrivateUsage] -- the other engine
        assert each.is_missing(text) is (not found), each.pattern


def test_no_expression_is_left_out_of_that() -> None:
    assert len(_EXPRESSIONS) >= 20
    assert {credentials._ANY, disguises._ANY_RUN} <= set(_EXPRESSIONS)  # pyright: ignore[reportPrivateUsage] -- what decides about secrets


def test_a_long_text_is_never_said_to_hold_nothing() -> None:
    text = " " * (SHORT_CHARS_MAX + 1)
    assert not any(each.is_missing(text) for each in _EXPRESSIONS)
    assert all(each.is_missing(text[1:]) for each in _EXPRESSIONS)


@settings(max_examples=200, deadline=None)
@given(_TEXTS)
def test_a_run_of_base64_is_found_alike_by_both_engines(text: str) -> None:
    short = [match.span() for match in disguises._SHORT_RUN.finditer(text)]  # pyright: ignore[reportPrivateUsage] -- both engines
    assert short == [match.span() for match in disguises._ANY_RUN.finditer(text)]  # pyright: ignore[reportPrivateUsage] -- both engines


def test_places_are_those_of_the_text() -> None:
    for gap, tail in product(("", " ", "\x1e"), ("", " x")):
        text = gap + "password: hunter2hunter2" + tail
        (match,) = credentials._ASSIGNED.finditer(text)  # pyright: ignore[reportPrivateUsage] -- one with groups
        assert text[slice(*match.span(5))] == "hunter2hunter2"
    assert linear.any_of(*_EXPRESSIONS[:2]).is_missing("nothing here")
