"""Check digits and number plans: whether a string of digits can be a card, an account or a person at all.

Sources: Luhn ISO/IEC 7812-1 annex B; card prefixes of the networks' published ranges; IBAN ISO 13616 with the
registry's lengths; Verhoeff for Aadhaar; ISO 7064 MOD 11,10 for the German tax number; the rest as the issuing
authorities publish them. All functions take text of ASCII digits and letters without separators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["IBAN_LENGTHS", "NATIONAL_IDS", "is_card", "is_iban", "is_national_id", "passes_luhn"]

_REGISTRY: Final = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20
EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30
KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23
PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26
UA29 VA22 VG24 XK20 YE30
"""
IBAN_LENGTHS: Final = {entry[:2]: int(entry[2:]) for entry in _REGISTRY.split()}
"""Characters of an IBAN by country (ISO 13616 registry)."""

_CARD_RANGES: Final = (
    # low and high of the leading digits, then the lengths that the network issues
    ("34", "34", (15,)),
    ("37", "37", (15,)),
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),
    ("4", "4", (16, 19)),  # thirteen digits are out of use, and German article numbers look like them
    ("6011", "6011", (16, 17, 18, 19)),
    ("644", "649", (16, 17, 18, 19)),
    ("65", "65", (16, 17, 18, 19)),
    ("60", "60", (16,)),
    ("81", "82", (16,)),
    ("3528", "3589", (16, 17, 18, 19)),
    ("300", "305", (14, 16, 17, 18, 19)),
    ("3095", "3095", (14, 16, 17, 18, 19)),
    ("36", "36", (14, 16, 17, 18, 19)),
    ("38", "39", (14, 16, 17, 18, 19)),
    ("62", "62", (16, 17, 18, 19)),
    ("2200", "2204", (16, 17, 18, 19)),
    ("50", "50", (16, 17, 18, 19)),
    ("56", "58", (16, 17, 18, 19)),
    ("67", "67", (16, 17, 18, 19)),
    ("9792", "9792", (16,)),
)


def passes_luhn(digits: str) -> bool:
    total = sum(ord(c) - 48 for c in digits[-1::-2])
    return (total + sum((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[ord(c) - 48] for c in digits[-2::-2])) % 10 == 0


def is_card(digits: str) -> bool:
    """A length and prefix that a card network issues, and the check digit. One number in ten passes by chance."""
    length = len(digits)
    return any(
        length in lengths and low <= digits[: len(low)] <= high for low, high, lengths in _CARD_RANGES
    ) and passes_luhn(digits)


def is_iban(text: str) -> bool:
    """The country's length and the two check digits (ISO 7064 MOD 97-10); upper case, without spaces."""
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not text.isalnum():
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


def _is_date(month: str, day: str) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) <= 31


def _us(t: str) -> bool:
    """SSN (SSA rules since 2011), or ITIN (IRS: 9xx with 50-65, 70-88, 90-92, 94-99)."""
    if t[0] == "9":
        return t[3:5] >= "50" and t[3:5] not in ("66", "67", "68", "69", "89", "93")
    return t[:3] not in ("000", "666") and t[3:5] != "00" and t[5:] != "0000"


def _gb(t: str) -> bool:
    """National Insurance number: prefixes HMRC does not use are out."""
    return not (
        set(t[:2]) & set("DFIQUV") or t[1] == "O" or t[:2] in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    )


def _es(t: str) -> bool:
    number = {"X": "0", "Y": "1", "Z": "2"}.get(t[0], t[0]) + t[1:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == t[-1]


def _br(t: str) -> bool:
    if len(set(t)) == 1:
        return False
    first = _weighted(t, tuple(range(10, 1, -1))) * 10 % 11 % 10
    second = _weighted(t, tuple(range(11, 1, -1))) * 10 % 11 % 10
    return t[9:] == f"{first}{second}"


def _nl(t: str) -> bool:
    return int(t) > 0 and _weighted(t, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _fr(t: str) -> bool:
    """NIR (INSEE); Corsican departments 2A and 2B count as 19 and 18."""
    body = t[:13].replace("2A", "19").replace("2B", "18")
    month = int(t[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42) and 97 - int(body) % 97 == int(t[13:])


def _pl(t: str) -> bool:
    return (
        _is_date(str(int(t[2:4]) % 20), t[4:6]) and _weighted(t, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0
    )


def _de(t: str) -> bool:
    if t[0] == "0" or not 7 <= len(set(t[:10])) <= 9:
        return False
    product = 10
    for c in t[:10]:
        product = ((int(c) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(t[10])


def _se(t: str) -> bool:
    """Personnummer; a coordination number has 60 added to the day."""
    return _is_date(t[2:4], str(int(t[4:6]) % 60)) and passes_luhn(t)


def _fi(t: str) -> bool:
    number = int(t[:6] + t[7:10])
    return _is_date(t[2:4], t[:2]) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[number % 31] == t[10]


def _no(t: str) -> bool:
    first = _weighted(t, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
    return first and _weighted(t, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0


_ITALIAN_ODD: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21) * 2 + (
    *(2, 4, 18, 20, 11, 3, 6, 8),
    *(12, 14, 16, 10, 22, 25, 24, 23),
)
"""What a character in an odd place counts for, 0 to 9 and then A to Z."""


def _it(t: str) -> bool:
    odd = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", _ITALIAN_ODD, strict=True))
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in t[1:15:2])
    return chr(65 + (sum(odd[c] for c in t[0:15:2]) + even) % 26) == t[15]


def _ch(t: str) -> bool:
    return _weighted(t, (1, 3) * 6 + (1,)) % 10 == 0


def _be(t: str) -> bool:
    return int(t[9:]) in (97 - int(t[:9]) % 97, 97 - int("2" + t[:9]) % 97)


def _cn(t: str) -> bool:
    total = _weighted(t[:17], (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2))
    return _is_date(t[10:12], t[12:14]) and "10X98765432"[total % 11] == t[17]


def _au(t: str) -> bool:
    return _weighted(t, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def _in(t: str) -> bool:
    """Aadhaar: Verhoeff's check, the dihedral group of order ten."""
    check = 0
    for i, c in enumerate(reversed(t)):
        digit = int(c)
        for _ in range(i % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        left, right = divmod(check, 5), divmod(digit, 5)
        turn = (left[1] - right[1]) % 5 if left[0] else (left[1] + right[1]) % 5
        check = 5 * (left[0] ^ right[0]) + turn
    return t[0] not in "01" and check == 0


NATIONAL_IDS: Final[dict[str, tuple[str, Callable[[str], bool]]]] = {
    # the shape: 9 stands for a digit, A for a letter, * for either
    "us": ("999999999", _us),
    "gb": ("AA999999A", _gb),
    "es": ("*9999999A", _es),
    "br": ("99999999999", _br),
    "nl": ("999999999", _nl),
    "fr": ("999999*99999999", _fr),
    "pl": ("99999999999", _pl),
    "de": ("99999999999", _de),
    "se": ("9999999999", _se),
    "fi": ("999999*999*", _fi),
    "no": ("99999999999", _no),
    "it": ("AAAAAA99A99A999A", _it),
    "ch": ("7569999999999", _ch),
    "be": ("99999999999", _be),
    "cn": ("99999999999999999*", _cn),
    "ca": ("999999999", passes_luhn),
    "au": ("999999999", _au),
    "in": ("999999999999", _in),
}


def is_national_id(text: str, countries: tuple[str, ...] = tuple(NATIONAL_IDS)) -> bool:
    """Whether one of `countries` could have issued `text`: its shape and, where there is one, its check digit."""
    text = text.upper()
    for country in countries:
        shape, check = NATIONAL_IDS[country]
        if len(shape) == len(text) and all(map(_fits, shape, text)):
            try:
                if check(text):
                    return True
            except (ValueError, KeyError, IndexError):  # a letter where this number has none
                continue
    return False


def _fits(wanted: str, char: str) -> bool:
    if wanted == "9":
        return "0" <= char <= "9"
    if wanted == "A":
        return "A" <= char <= "Z"
    return wanted == "*" or wanted == char
