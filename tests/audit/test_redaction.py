"""Who may see what of a value: secrets, credentials, personal data and fields, in every spelling and place."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.errors import FieldRuleError
from comptroller_audit.fields import FieldRule, rules_of_schema
from comptroller_audit.redaction import Audience, Pattern, Release
from comptroller_audit.vocabulary import Json, JsonObject
from tests.endless import ends

SECRET = "hunter2-swordfish/é?"
ASCII_SECRET = "hunter2-swordfish/+?"
EMAIL = "ann.lee@example.com"
GITHUB = "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
EVERYTHING = Release(patterns=list(Pattern))
OF_SECRETS = Release((SECRET, ASCII_SECRET))


def fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def between_zero_widths(text: str) -> str:
    return "\u200b".join(text)


SPELLINGS: list[Callable[[str], str]] = [
    str,
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: base64.urlsafe_b64encode(b"x" + text.encode()).decode(),
    lambda text: base64.b64encode(b"\xff\xfe" + text.encode() + b"\xff").decode(),
    fullwidth,
    between_zero_widths,
    lambda text: "".join(f"&#{ord(c)};" for c in text),
    lambda text: json.dumps(text.replace("e", "\u0435"))[1:-1].replace("\\u0435", "\\u0065"),
    lambda text: text.encode().hex(),
]


@pytest.mark.parametrize("spelling", range(len(SPELLINGS)))
@pytest.mark.parametrize("audience", list(Audience))
def test_a_configured_secret_is_withheld_from_everybody_in_every_spelling(
    spelling: int, audience: Audience
) -> None:
    spelled = SPELLINGS[spelling](ASCII_SECRET)
    values: list[Json] = [
        spelled,
        f"a {spelled} b",
        {spelled: 1},
        {"a": [1, {"b": [spelled]}]},
        ["ü", spelled],
    ]
    for value in values:
        released = OF_SECRETS.release(value, audience)
        assert spelled not in json.dumps(released.value, ensure_ascii=False)
        assert released.withheld >= 1
        assert released.kinds == {"secret"}
        assert OF_SECRETS.finds_secret(value)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_secret_with_foreign_letters_is_found_in_each_normal_form(form: str) -> None:
    text = unicodedata.normalize(form, SECRET)  # type: ignore[arg-type]  # the names of the forms are the parameters
    assert OF_SECRETS.release(f"so {text} so", Audience.MODEL).withheld == 1
    assert OF_SECRETS.release("so hunter2-swordfish/è? so", Audience.MODEL).withheld == 0


@given(st.binary(max_size=7), st.binary(max_size=7))
def test_a_secret_is_found_at_any_place_within_base64(before: bytes, behind: bytes) -> None:
    run = base64.b64encode(before + ASCII_SECRET.encode() + behind).decode()
    assert OF_SECRETS.text(f"blob {run} end", Audience.MODEL) == "blob [withheld: secret] end"


@pytest.mark.parametrize("cut", range(1, len(ASCII_SECRET)))
def test_a_secret_split_over_two_items_of_a_list_is_withheld(cut: int) -> None:
    left, right = f"so {ASCII_SECRET[:cut]}", f"{ASCII_SECRET[cut:]} so"
    assert OF_SECRETS.release([left, right], Audience.MODEL).value == [
        "so [withheld: secret]",
        "[withheld: secret] so",
    ]
    blocks: list[Json] = [{"type": "text", "text": left}, {"type": "text", "text": right}]
    shown = json.dumps(OF_SECRETS.release({"content": blocks}, Audience.MODEL).value)
    assert shown.count("[withheld: secret]") == 2


def test_an_address_split_over_two_items_is_withheld_and_neighbours_stay() -> None:
    assert EVERYTHING.release(["to ann.lee@exam", "ple.com now"], Audience.MODEL).value == [
        "to [withheld: email]",
        "[withheld: email] now",
    ]
    assert EVERYTHING.release(["write to", EMAIL], Audience.MODEL).value == ["write to", "[withheld: email]"]
    assert EVERYTHING.release(["4111", "1111", "1111", "1111"], Audience.MODEL).withheld == 0


def test_without_secrets_patterns_and_fields_a_value_comes_back_itself() -> None:
    value: Json = {"email": EMAIL, "key": GITHUB}
    released = Release().release(value, Audience.MODEL)
    assert released.value is value
    assert (released.withheld, released.kinds) == (0, frozenset())
    assert not Release().finds_secret(value)
    assert Release().finds(value) == frozenset()


def test_only_the_patterns_that_were_asked_for_are_looked_for() -> None:
    release = Release(patterns=[Pattern.EMAIL])
    assert release.text(f"{EMAIL}, +49 30 90182000", Audience.MODEL) == "[withheld: email], +49 30 90182000"


def test_asking_for_the_last_four_withholds_whole_card_numbers_too() -> None:
    release = Release(patterns=[Pattern("card_last4")])
    assert "1111" not in release.text("4111 1111 1111 1111, ending in 1111", Audience.MODEL)


def test_secret_is_another_name_of_the_pattern_for_keys() -> None:
    assert Pattern("secret") is Pattern.API_KEY
    with pytest.raises(ValueError, match="credit"):
        Pattern("credit")


@pytest.mark.parametrize("audience", list(Audience))
def test_personal_data_is_kept_in_records_alone_and_credentials_nowhere(audience: Audience) -> None:
    released = EVERYTHING.release({"to": EMAIL, "key": GITHUB}, audience)
    shown = json.dumps(released.value)
    assert GITHUB not in shown
    assert (EMAIL in shown) is (audience is Audience.RECORD)


def test_arguments_with_a_credential_are_found_and_those_with_an_address_are_not() -> None:
    assert EVERYTHING.finds_secret({"body": f"use {GITHUB}"})
    assert not EVERYTHING.finds_secret({"body": f"write to {EMAIL}"})
    assert EVERYTHING.finds({"body": f"write to {EMAIL}"}) == {"email"}


def test_names_of_members_are_cues_and_numbers_are_searched() -> None:
    value: Json = {
        "cardLast4": 4242,
        "count": 4242,
        "pan": 4111111111111111,
        "ssn": "536221234",
        "n": 536221234,
    }
    assert EVERYTHING.release(value, Audience.MODEL).value == {
        "cardLast4": "[withheld: card_last4]",
        "count": 4242,
        "pan": "[withheld: card_number]",
        "ssn": "[withheld: national_id]",
        "n": 536221234,
    }


def test_two_names_that_are_withheld_stay_two_members() -> None:
    value: Json = {"ann@example.com": 1, "bo@example.com": 2}
    assert EVERYTHING.release(value, Audience.MODEL).value == {
        "[withheld: email]": 1,
        "[withheld: email] (2)": 2,
    }


def test_what_cannot_be_searched_is_withheld_as_a_whole() -> None:
    deep: Json = "end"
    for _ in range(100_000):
        deep = [deep]
    released = EVERYTHING.release(deep, Audience.MODEL)
    assert released.value == "[withheld: unsearchable]"
    assert EVERYTHING.finds_secret(deep)
    while isinstance(deep, list):  # taken down by hand: freeing it at once would recurse as deep
        deep = deep[0]


@pytest.mark.parametrize(
    "text", ["\ud800 ann@example.com", "\x1e ann@example.com \x1f", "\x00ann@example.com"]
)
def test_odd_characters_hide_nothing(text: str) -> None:
    assert EMAIL not in json.dumps(EVERYTHING.release({"a": text, "b": [text]}, Audience.MODEL).value)
    assert EVERYTHING.text(text, Audience.MODEL) == text.replace("ann@example.com", "[withheld: email]")


def test_a_text_that_imitates_our_marks_shifts_nothing() -> None:
    marks = "\x1e\x1e\x1f" * 5
    value: Json = {"a": marks, marks: "b", "c": f"{marks}{EMAIL}{marks}"}
    released = EVERYTHING.release(value, Audience.MODEL)
    assert released.value == {"a": marks, marks: "b", "c": f"{marks}[withheld: email]{marks}"}


def test_a_mark_of_ours_within_a_text_ends_no_search() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nabc\x1edef\n-----END PRIVATE KEY-----"
    assert EVERYTHING.release({"a": pem, "b": "c"}, Audience.MODEL).value == {
        "a": "[withheld: api_key]",
        "b": "c",
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from(list(Audience)))
def test_a_planted_address_is_the_only_thing_that_is_cut_out(value: Json, audience: Audience) -> None:
    quiet = EVERYTHING.release(value, audience)
    planted = EVERYTHING.release([value, " ", EMAIL], audience).value
    assert planted == [quiet.value, " ", EMAIL if audience is Audience.RECORD else "[withheld: email]"]


@given(json_values)
def test_releasing_again_changes_nothing(value: Json) -> None:
    once = EVERYTHING.release([value, EMAIL, {"k": GITHUB}], Audience.MODEL).value
    assert EVERYTHING.release(once, Audience.MODEL).value == once


# -- fields -------------------------------------------------------------------------------------------------------


def test_a_field_is_withheld_by_its_name_wherever_it_stands_and_whatever_it_holds() -> None:
    release = Release(fields=[FieldRule("notes"), FieldRule("customer_email", "email")])
    value: Json = {
        "customer_email": "not an address",
        "items": [{"notes": 7, "x": 1}, {"notes": {"a": "deep"}}, {"notes": ["p", True, None]}],
    }
    assert release.release(value, Audience.MODEL).value == {
        "customer_email": "[withheld: email]",
        "items": [
            {"notes": "[withheld: notes]", "x": 1},
            {"notes": "[withheld: notes]"},
            {"notes": ["[withheld: notes]", "[withheld: notes]", None]},
        ],
    }


def test_a_rooted_path_is_meant_at_its_place_only() -> None:
    release = Release(fields=[FieldRule("$.name"), FieldRule("lines.*.iban")])
    value: Json = {"name": "A", "lines": [{"from": {"iban": "X"}, "name": "B"}]}
    assert release.release(value, Audience.PERSON).value == {
        "name": "[withheld: name]",
        "lines": [{"from": {"iban": "[withheld: iban]"}, "name": "B"}],
    }


def test_a_field_is_kept_for_whom_its_rule_shows_it_less_secrets() -> None:
    rule = FieldRule("notes", raw_for=frozenset({Audience.PERSON}))
    release = Release((ASCII_SECRET,), list(Pattern), [rule])
    value: Json = {"notes": f"{EMAIL} {ASCII_SECRET} {GITHUB}"}
    assert release.release(value, Audience.PERSON).value == {
        "notes": f"{EMAIL} [withheld: secret] [withheld: api_key]"
    }
    for audience in (Audience.MODEL, Audience.RECORD, Audience.LOG):
        assert release.release(value, audience).value == {"notes": "[withheld: notes]"}


def test_a_tool_has_field_rules_of_its_own_on_the_same_road() -> None:
    release = EVERYTHING.with_fields([FieldRule("city")])
    assert release.release({"city": "Bonn", "to": EMAIL}, Audience.MODEL).value == {
        "city": "[withheld: city]",
        "to": "[withheld: email]",
    }
    assert EVERYTHING.release({"city": "Bonn"}, Audience.MODEL).withheld == 0


@pytest.mark.parametrize("path", ["", "$", "a..b", "$.a."])
def test_a_path_with_an_empty_name_is_refused(path: str) -> None:
    with pytest.raises(FieldRuleError, match="no path to a field"):
        FieldRule(path)


def test_a_rule_for_logs_or_with_a_bad_kind_is_refused() -> None:
    with pytest.raises(FieldRuleError, match="logs"):
        FieldRule("a", raw_for=frozenset({Audience.LOG}))
    with pytest.raises(FieldRuleError, match="small letters"):
        FieldRule("a", kind="E-Mail")


def test_a_schema_marks_fields_by_format_and_by_keyword() -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": {
            "to": {"type": "string", "format": "email"},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "string", "format": "idn-email"}]},
            "free": {"type": "string", "x-comptroller-redact": False},
        },
        "additionalProperties": {"properties": {"pin": {"x-comptroller-redact": True}}},
        "$defs": {
            "Line": {
                "properties": {
                    "iban": {"type": "string", "x-comptroller-redact": "account"},
                    "next": {"$ref": "#/$defs/Line"},
                }
            }
        },
    }
    rules = {rule.path: rule.kind for rule in rules_of_schema(schema)}
    assert rules["$.to"] == rules["$.maybe"] == "email"
    assert rules["$.lines.iban"] == rules["$.lines.next.iban"] == "account"
    assert rules["$.*.pin"] == "pin"
    assert "$.free" not in rules
    with pytest.raises(FieldRuleError, match="must be true or a kind"):
        rules_of_schema({"properties": {"a": {"x-comptroller-redact": 1}}})


# -- long texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1 ",
        "+1-",
        "a@",
        "a@a.",
        "%25",
        "A",
        "=",
        "password:",
        "ssn 1",
        "4111-",
        "eyJ",
        "⟦",
        "[at]",
        "&#",
    ],
)
def test_no_text_makes_it_slower_than_in_proportion(piece: str) -> None:
    with ends():
        EVERYTHING.text(piece * (500_000 // len(piece)), Audience.MODEL)
