"""Check digits against examples that networks, banks and authorities publish for testing."""

from __future__ import annotations

import pytest

from comptroller_audit.checksums import (
    IBAN_LENGTHS,
    NATIONAL_IDS,
    is_card,
    is_iban,
    is_national_id,
    passes_luhn,
)
from comptroller_audit.redaction import Audience, Pattern, Release

CARDS = (  # payment services' published test numbers
    "4242424242424242 4111111111111111 5555555555554444 2223003122003222 5105105105105100 378282246310005"
    " 371449635398431 6011111111111117 3056930009020004 36227206271667 3566002020360505 6200000000000005"
)
IBANS = (  # the registry's examples
    "DE89370400440532013000 GB29NWBK60161331926819 FR1420041010050500013M02606 NL91ABNA0417164300"
    " ES9121000418450200051332 IT60X0542811101000000123456 CH9300762011623852957 PL61109010140000071219812874"
    " NO9386011117947 MT84MALT011000012345MTLCAST001S BR1800360305000010009795493C1 SA0380000000608010167519"
    " LC55HEMM000100010012001200023015 BE68539007547034 SE4550000000058398257466 TR330006100519786457841326"
)
IDS = {
    "us": ("219099999", "900700000"),
    "gb": ("AB123456C",),
    "es": ("12345678Z", "X1234567L"),
    "br": ("11144477735",),
    "nl": ("111222333",),
    "fr": ("255081416802538",),
    "pl": ("44051401359",),
    "de": ("86095742719",),
    "se": ("8112189876",),
    "fi": ("131052-308T",),
    "no": ("15076500565",),
    "it": ("RSSMRA85T10A562S",),
    "ch": ("7569217076985",),
    "be": ("85073003328",),
    "cn": ("11010519491231002X",),
    "ca": ("046454286",),
    "au": ("123456782",),
    "in": ("234123412346",),
}
WITHOUT_CHECK_DIGIT = {"us", "gb"}


@pytest.mark.parametrize("number", CARDS.split())
def test_a_published_card_number_is_one_and_no_neighbour_is(number: str) -> None:
    assert is_card(number)
    assert passes_luhn(number)
    assert [d for d in "0123456789" if is_card(number[:-1] + d)] == [number[-1]]
    assert not is_card("9" + number[1:])
    assert not is_card(number[:-2])


@pytest.mark.parametrize("number", IBANS.split())
def test_a_published_iban_is_one_and_no_neighbour_is(number: str) -> None:
    assert is_iban(number)
    assert [d for d in "0123456789" if is_iban(number[:-1] + d)] in ([number[-1]], [])
    assert not is_iban(number[:3] + str(9 - int(number[3])) + number[4:])
    assert not is_iban(number + "0")
    assert not is_iban("ZZ" + number[2:])


def test_the_registry_has_every_length_once() -> None:
    assert len(IBAN_LENGTHS) > 75
    assert all(15 <= length <= 33 for length in IBAN_LENGTHS.values())


def test_every_country_has_an_example() -> None:
    assert set(IDS) == set(NATIONAL_IDS)


@pytest.mark.parametrize(("country", "number"), [(c, n) for c, numbers in IDS.items() for n in numbers])
def test_a_published_national_id_is_its_countrys_and_few_neighbours_are(country: str, number: str) -> None:
    assert is_national_id(number, (country,))
    assert is_national_id(number.lower(), (country,))
    assert not is_national_id(number + "0", (country,))
    if country not in WITHOUT_CHECK_DIGIT:
        alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ" if number[-1].isalpha() else "0123456789"
        good = [c for c in alphabet if is_national_id(number[:-1] + c, (country,))]
        assert good == [number[-1]]


@pytest.mark.parametrize(
    "number",
    ["000121234", "666121234", "536001234", "536120000", "900491234", "900661234", "DA123456A", "BG123456A"],
)
def test_numbers_that_are_never_issued_are_none(number: str) -> None:
    assert not is_national_id(number, ("us", "gb"))


def test_a_date_that_cannot_be_is_no_birthday() -> None:
    assert not is_national_id("44131401359", ("pl",))
    assert not is_national_id("8113189876", ("se",))
    assert not is_national_id("11111111111", ("br",))


@pytest.mark.parametrize(
    "text", ["131052-308T", "811218-9876", "756.9217.0769.85", "85.07.30-033.28", "111.444.777-35"]
)
def test_an_id_is_found_as_it_is_usually_written(text: str) -> None:
    release = Release(patterns=[Pattern.NATIONAL_ID])
    assert release.text(f"it is {text}.", Audience.MODEL) == "it is [withheld: national_id]."
