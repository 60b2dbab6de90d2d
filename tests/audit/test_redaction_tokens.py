"""Tokens: what a model sees instead of personal data, and where it may be turned back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.errors import FieldRuleError, KeyRingError, TokenBookError
from comptroller_audit.fields import FieldRule
from comptroller_audit.redaction import Audience, Pattern, Release
from comptroller_audit.tokens import TOKEN_VALUE_CHARS_MAX, TOKENS_MAX, Scalar, TokenBook
from comptroller_audit.vocabulary import Json, JsonObject

KEY = bytes(range(32))
EMAIL, OTHER = "ann.lee@example.com", "bo@example.org"
RELEASE = Release(patterns=list(Pattern), fields=[FieldRule("pin")])


def book(task: str = "task-1", key: bytes = KEY) -> TokenBook:
    return TokenBook(key, task)


def token_of(tokens: TokenBook, kind: str, value: Scalar) -> str:
    token = tokens.token(kind, value)
    assert token is not None
    return token


def test_a_value_has_one_token_throughout_a_task_and_reads_by_number() -> None:
    tokens = book()
    first = RELEASE.text(f"from {EMAIL} to {OTHER}, again {EMAIL}", Audience.MODEL, tokens)
    a, b = token_of(tokens, "email", EMAIL), token_of(tokens, "email", OTHER)
    assert first == f"from {a} to {b}, again {a}"
    assert a.startswith("⟦email:1-")
    assert b.startswith("⟦email:2-")
    assert RELEASE.text(EMAIL, Audience.PERSON, tokens) == a
    assert len(tokens) == 2


def test_logs_see_no_tokens_and_credentials_get_none() -> None:
    tokens = book()
    assert RELEASE.text(EMAIL, Audience.LOG, tokens) == "[withheld: email]"
    assert RELEASE.text("password: Hunter-22", Audience.MODEL, tokens) == "password: [withheld: api_key]"
    assert len(tokens) == 0


def test_a_token_resolves_where_it_is_allowed_and_nowhere_else() -> None:
    tokens = book()
    token = token_of(tokens, "email", EMAIL)
    arguments: JsonObject = {"to": token, "body": f"Dear {token}!", "cc": [token], "x": {"to": token}}
    resolved = tokens.resolve(arguments, ["to", "$.body"])
    assert resolved.arguments == {"to": EMAIL, "body": f"Dear {EMAIL}!", "cc": [token], "x": {"to": token}}
    assert resolved.used == (token,)
    assert [(u.path, u.token) for u in resolved.unresolved] == [("$.cc[0]", token), ("$.x.to", token)]
    assert all("does not take tokens" in u.why for u in resolved.unresolved)
    assert tokens.resolve({"cc": [token], "x": {"to": token}}, ["cc", "x.to"]).unresolved == ()


def test_a_number_comes_back_as_a_number() -> None:
    tokens = book()
    shown = RELEASE.release({"pin": 4711, "again": "4711"}, Audience.MODEL, tokens).value
    assert isinstance(shown, dict)
    assert tokens.resolve({"pin": shown["pin"]}, ["pin"]).arguments == {"pin": 4711}
    assert token_of(tokens, "pin", 4711) != token_of(tokens, "pin", "4711")


def test_arguments_without_tokens_come_back_as_they_were() -> None:
    arguments: JsonObject = {"to": EMAIL, "n": [1, None, {"a": "⟦"}]}
    resolved = book().resolve(arguments, [])
    assert (resolved.arguments, resolved.used, resolved.unresolved) == (arguments, (), ())


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_a_token_of_another_task_or_key_never_resolves(one: str, other: str) -> None:
    mine, foreign, stolen = book("a"), book("b"), book("a", bytes(32))
    for tokens in (mine, foreign, stolen):
        token_of(tokens, "email", one)
        token_of(tokens, "email", other)
    for tokens in (foreign, stolen):
        for value in (one, other):
            resolved = mine.resolve({"to": token_of(tokens, "email", value)}, ["to"])
            assert resolved.used == ()
            assert [u.path for u in resolved.unresolved] == ["$.to"]


@pytest.mark.parametrize("made_up", ["⟦email:1⟧", "⟦email:1-aaaaaa⟧", "⟦email⟧", "⟦EMAIL:1-aaaaaa⟧"])
def test_a_made_up_token_is_disarmed_on_the_way_in_and_refused_on_the_way_out(made_up: str) -> None:
    tokens = book()
    token = token_of(tokens, "email", EMAIL)
    shown = RELEASE.text(f"reply to {made_up} not {token}", Audience.MODEL, tokens)
    assert shown == f"reply to [{made_up[1:-1]}] not {token}"
    (unresolved,) = tokens.resolve({"to": made_up}, ["to"]).unresolved
    assert "no token of this task" in unresolved.why


def test_a_token_with_another_number_or_kind_is_its_value_or_nothing() -> None:
    tokens = book()
    token = token_of(tokens, "email", EMAIL)
    assert tokens.resolve({"to": token.replace(":1-", ":7-")}, ["to"]).arguments == {"to": EMAIL}
    assert tokens.resolve({"to": token.replace("email", "phone")}, ["to"]).used == ()


def test_a_token_as_a_name_is_refused() -> None:
    tokens = book()
    token = token_of(tokens, "email", EMAIL)
    (unresolved,) = tokens.resolve({"to": {token: 1}}, ["to"]).unresolved
    assert unresolved.why == "a name cannot be a token"


def test_releasing_what_was_released_in_the_task_changes_nothing() -> None:
    tokens = book()
    value: Json = {"to": EMAIL, "pin": "0042", "text": f"{OTHER} +49 30 90182000, Visa ending in 4242"}
    once = RELEASE.release(value, Audience.MODEL, tokens).value
    assert RELEASE.release(once, Audience.MODEL, tokens).value == once


def test_no_token_looks_like_anything_that_patterns_find() -> None:
    tokens = book()
    for kind in (*(pattern.value for pattern in Pattern), "ssn", "password", "token"):
        for number in range(TOKENS_MAX // 20):
            token = token_of(tokens, kind, f"value {number}")
            assert RELEASE.text(f"phone: {token} {kind}={token}", Audience.MODEL, tokens).count(token) == 2


def test_a_full_book_and_a_long_value_give_no_token() -> None:
    tokens = book()
    for number in range(TOKENS_MAX):
        token_of(tokens, "n", number)
    assert tokens.token("n", "one more") is None
    assert tokens.token("n", 5) is not None
    assert RELEASE.text(EMAIL, Audience.MODEL, tokens) == "[withheld: email]"
    assert book().token("n", "x" * (TOKEN_VALUE_CHARS_MAX + 1)) is None


def test_a_value_without_canonical_bytes_gets_no_token() -> None:
    assert book().token("n", "\ud800") is None


def test_tokens_that_were_given_are_taken_in_by_a_book_of_the_same_task_and_key_alone() -> None:
    tokens = book()
    token = token_of(tokens, "email", EMAIL)
    stored: Json = json.loads(json.dumps(tokens.given))
    taken = book()
    taken.take(stored)
    assert taken.resolve({"to": token}, ["to"]).arguments == {"to": EMAIL}
    assert "task-1" not in json.dumps(stored)
    for key, task in ((KEY, "task-2"), (bytes(32), "task-1")):
        with pytest.raises(TokenBookError, match="not what was written for this task"):
            TokenBook(key, task).take(stored)


@pytest.mark.parametrize("change", ["value", "tag", "kind", "row", "rows"])
def test_given_tokens_that_were_changed_are_refused(change: str) -> None:
    tokens = book()
    token_of(tokens, "email", EMAIL)
    kind, number, tag, value = "email", 1, token_of(tokens, "email", EMAIL)[-7:-1], EMAIL
    rows: dict[str, Json] = {
        "value": [[kind, number, tag, OTHER]],
        "tag": [[kind, number, "aaaaaa", value]],
        "kind": [["phone", number, tag, value]],
        "row": [[kind, number, tag]],
        "rows": "none",
    }
    assert tokens.given == [[kind, number, tag, value]]
    taken = book()
    with pytest.raises(TokenBookError, match="begin an empty"):
        taken.take(rows[change])
    assert len(taken) == 0


def test_books_of_one_task_that_two_processes_wrote_are_merged() -> None:
    one, two = book(), book()
    a, b = token_of(one, "email", EMAIL), token_of(two, "email", OTHER)
    again = token_of(two, "email", EMAIL)
    one.merge(two)
    resolved = one.resolve({"to": [a, b, again]}, ["to"])
    assert resolved.arguments == {"to": [EMAIL, OTHER, EMAIL]}
    with pytest.raises(TokenBookError, match="different tasks"):
        one.merge(book("task-2"))


def test_a_short_key_and_a_bad_path_are_refused() -> None:
    with pytest.raises(KeyRingError):
        book(key=b"short")
    with pytest.raises(FieldRuleError):
        book().resolve({}, ["a..b"])
