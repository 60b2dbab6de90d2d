"""Made-up personal data and look-alikes for the redaction corpus, drawn from a seed.

Check digits are computed here on their own, by other code than the product's: a shared mistake would hide. Nothing
here is a real person's; names, numbers and keys are drawn at random. Keys are put together from parts so that no
scanner mistakes this file for a leak.
"""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable
from urllib.parse import quote

__all__ = ["DISGUISES", "LOOKALIKES", "VALUES", "Draw"]

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


class Draw:
    """Draws that are the same on every Python: only `random()` is promised to be."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, n: int) -> int:
        return int(self._random.random() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def one(self, items: str | list[str]) -> str:
        return items[self.below(len(items))]

    def text(self, alphabet: str, n: int) -> str:
        return "".join(self.one(alphabet) for _ in range(n))

    def digits(self, n: int) -> str:
        return self.text(string.digits, n)


# -- personal data ------------------------------------------------------------------------------------------------

FIRST = ["ann", "jose", "mei", "lukas", "fatima", "oleg", "priya", "chloe", "sven", "aisha", "tomasz", "noor"]
LAST = ["lee", "garcia", "huang", "weber", "khan", "petrov", "nair", "dubois", "larsen", "okafor", "nowak"]
HOSTS = ["example", "acme-corp", "mail.contoso", "northwind", "uni-koeln", "blue.ocean", "example2"]
TLDS = ["com", "org", "net", "de", "co.uk", "io", "fr", "com.br", "dev", "museum", "pl", "gov.au"]


def email(d: Draw) -> str:
    first, last = d.one(FIRST), d.one(LAST)
    forms = [
        f"{first}.{last}",
        f"{first}{d.digits(2)}",
        f"{first}_{last}",
        f"{first[0]}{last}",
        f"{first}+{d.one(['shop', 'news', 'billing'])}",
        f"{first}.{last[0]}-{last}",
    ]
    address = f"{d.one(forms)}@{d.one(HOSTS)}.{d.one(TLDS)}"
    return address.upper() if d.below(12) == 0 else address


def phone_international(d: Draw) -> str:
    forms = [
        f"+1 {d.between(201, 989)}-{d.between(200, 999)}-{d.digits(4)}",
        f"+1{d.between(201, 989)}{d.between(200, 999)}{d.digits(4)}",
        f"+49 {d.between(151, 179)} {d.digits(8)}",
        f"+49 (0)30 {d.between(1000000, 9999999)}",
        f"+33 {d.between(1, 7)} {d.digits(2)} {d.digits(2)} {d.digits(2)} {d.digits(2)}",
        f"+44 20 {d.digits(4)} {d.digits(4)}",
        f"+44 7{d.digits(3)} {d.digits(6)}",
        f"+48 {d.between(500, 799)} {d.digits(3)} {d.digits(3)}",
        f"+91 9{d.digits(4)} {d.digits(5)}",
        f"+55 11 9{d.digits(4)}-{d.digits(4)}",
        f"+61 4{d.digits(2)} {d.digits(3)} {d.digits(3)}",
        f"+46-70-{d.digits(3)} {d.digits(2)} {d.digits(2)}",
    ]
    return d.one(forms)


def phone_national(d: Draw) -> str:
    """A number as it is dialled inside its country; only the words around it say that it is a phone number."""
    forms = [
        f"({d.between(201, 989)}) {d.between(200, 999)}-{d.digits(4)}",
        f"{d.between(201, 989)}-{d.between(200, 999)}-{d.digits(4)}",
        f"{d.between(201, 989)}.{d.between(200, 999)}.{d.digits(4)}",
        f"020 7{d.digits(3)} {d.digits(4)}",
        f"07{d.digits(3)} {d.digits(6)}",
        f"030 {d.between(10000000, 99999999)}",
        f"01{d.between(51, 79)}/{d.digits(7)}",
        f"0{d.between(1, 7)} {d.digits(2)} {d.digits(2)} {d.digits(2)} {d.digits(2)}",
        f"{d.between(600, 699)} {d.digits(3)} {d.digits(3)}",
    ]
    return d.one(forms)


def luhn_digit(body: str) -> str:
    """The digit that makes `body` plus it pass ISO/IEC 7812-1 annex B."""
    odd = [int(c) for c in body[-1::-2]]
    even = [int(c) for c in body[-2::-2]]
    doubled = [x * 2 - 9 if x > 4 else x * 2 for x in odd]
    return str(-(sum(doubled) + sum(even)) % 10)


def _card(d: Draw) -> str:
    prefix, length = [
        ("4", 16),
        (str(d.between(51, 55)), 16),
        (str(d.between(2221, 2720)), 16),
        (d.one(["34", "37"]), 15),
        ("6011", 16),
        ("36", 14),
        (str(d.between(3528, 3589)), 16),
        ("62", 16),
    ][d.below(8)]
    body = prefix + d.digits(length - 1 - len(prefix))
    return body + luhn_digit(body)


def card_number(d: Draw) -> str:
    digits, style = _card(d), d.below(4)
    if style == 0:
        return digits
    sep = d.one([" ", "-", " "])
    if len(digits) in (14, 15):
        return sep.join([digits[:4], digits[4:10], digits[10:]])
    return sep.join(digits[i : i + 4] for i in range(0, len(digits), 4))


def card_last4(d: Draw) -> str:
    return d.digits(4) if d.below(3) else f"{d.between(2100, 9999)}"


IBAN_BODIES: list[tuple[str, str]] = [
    ("DE", "n" * 18),
    ("GB", "aaaa" + "n" * 14),
    ("FR", "n" * 10 + "c" * 11 + "nn"),
    ("NL", "aaaa" + "n" * 10),
    ("ES", "n" * 20),
    ("IT", "a" + "n" * 10 + "c" * 12),
    ("CH", "n" * 5 + "c" * 12),
    ("PL", "n" * 24),
    ("NO", "n" * 11),
    ("MT", "aaaa" + "n" * 5 + "c" * 18),
]


def iban(d: Draw) -> str:
    country, shape = IBAN_BODIES[d.below(len(IBAN_BODIES))]
    alphabets = {"n": string.digits, "a": string.ascii_uppercase, "c": string.ascii_uppercase + string.digits}
    body = "".join(d.one(alphabets[s]) for s in shape)
    as_number = int("".join(str(int(c, 36)) for c in body + country + "00"))
    compact = f"{country}{98 - as_number % 97:02d}{body}"
    style = d.below(5)
    if style < 2:
        return compact
    if style == 2:
        return compact.lower() if d.below(4) == 0 else compact
    return " ".join(compact[i : i + 4] for i in range(0, len(compact), 4))


def us_ssn(d: Draw) -> str:
    area = d.between(1, 665) if d.below(2) else d.between(667, 899)
    return f"{area:03d}-{d.between(1, 99):02d}-{d.between(1, 9999):04d}"


def uk_nino(d: Draw) -> str:
    prefix = d.one(["AB", "CE", "HK", "JM", "PS", "WR", "YZ"])
    return f"{prefix} {d.digits(2)} {d.digits(2)} {d.digits(2)} {d.one('ABCD')}"


def es_dni(d: Draw) -> str:
    number = d.between(10_000_000, 99_999_999)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def br_cpf(d: Draw) -> str:
    body = [d.below(10) for _ in range(9)]
    for start in (10, 11):
        total = sum(x * w for x, w in zip(body, range(start, 1, -1), strict=True))
        body.append(total * 10 % 11 % 10)
    t = "".join(map(str, body))
    return f"{t[:3]}.{t[3:6]}.{t[6:9]}-{t[9:]}"


def nl_bsn(d: Draw) -> str:
    while True:
        body = [d.between(1, 9), *(d.below(10) for _ in range(7))]
        last = sum(x * w for x, w in zip(body, range(9, 1, -1), strict=True)) % 11
        if last < 10:
            return "".join(map(str, body)) + str(last)


def fr_nir(d: Draw) -> str:
    body = f"{d.one('12')}{d.between(30, 99)}{d.between(1, 12):02d}{d.between(1, 95):02d}{d.digits(3)}{d.digits(3)}"
    key = f"{97 - int(body) % 97:02d}"
    parts = [body[0], body[1:3], body[3:5], body[5:7], body[7:10], body[10:], key]
    return " ".join(parts) if d.below(2) else "".join(parts)


def pl_pesel(d: Draw) -> str:
    body = f"{d.between(50, 99)}{d.between(1, 12):02d}{d.between(1, 28):02d}{d.digits(4)}"
    total = sum(int(c) * w for c, w in zip(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=True))
    return body + str(-total % 10)


def de_tax(d: Draw) -> str:
    """Ten digits of which one stands twice, and the check digit of ISO 7064 MOD 11,10."""
    pool = list("0123456789")
    for i in range(9, 0, -1):
        j = d.below(i + 1)
        pool[i], pool[j] = pool[j], pool[i]
    pool[9] = pool[d.below(8)]
    if pool[0] == "0":
        pool[0], pool[8] = pool[8], pool[0]
        if pool[0] == "0":
            pool[0] = "7"
    product = 10
    for c in pool:
        total = (int(c) + product) % 10 or 10
        product = total * 2 % 11
    return "".join(pool) + str((11 - product) % 10)


def se_pnr(d: Draw) -> str:
    body = f"{d.between(40, 99)}{d.between(1, 12):02d}{d.between(1, 28):02d}{d.digits(3)}"
    return f"{body[:6]}-{body[6:]}{luhn_digit(body)}"


# -- credentials --------------------------------------------------------------------------------------------------


def _b64url(d: Draw, n: int) -> str:
    return d.text(ALNUM + "-_", n)


def api_key(d: Draw) -> str:
    forms: list[Callable[[], str]] = [
        lambda: "AK" + "IA" + d.text(string.ascii_uppercase + "234567", 16),
        lambda: "gh" + "p_" + d.text(ALNUM, 36),
        lambda: "github" + "_pat_" + d.text(ALNUM, 22) + "_" + d.text(ALNUM, 59),
        lambda: "xo" + "xb-" + d.digits(12) + "-" + d.text(ALNUM, 24),
        lambda: "sk" + "_live_" + d.text(ALNUM, 24),
        lambda: "rk" + "_test_" + d.text(ALNUM, 24),
        lambda: "sk-" + "proj-" + _b64url(d, 48),
        lambda: "sk-" + "ant-api03-" + _b64url(d, 60),
        lambda: "AI" + "za" + _b64url(d, 35),
        lambda: "ey" + "J" + _b64url(d, 20) + ".ey" + "J" + _b64url(d, 40) + "." + _b64url(d, 43),
        lambda: "gl" + "pat-" + _b64url(d, 20),
        lambda: "SG" + "." + _b64url(d, 22) + "." + _b64url(d, 43),
        lambda: "np" + "m_" + d.text(ALNUM, 36),
        lambda: "hf" + "_" + d.text(ALNUM, 34),
    ]
    return forms[d.below(len(forms))]()


def password(d: Draw) -> str:
    words = ["correct", "horse", "Battery", "staple", "Winter", "dragon", "Sunny", "tulip"]
    return f"{d.one(words)}{d.one('-_.!#')}{d.one(words)}{d.digits(2)}"


def hex_key(d: Draw) -> str:
    return d.text(HEX, 32)


def private_key(d: Draw) -> str:
    kind = d.one(["RSA ", "EC ", "OPENSSH ", ""])
    lines = "\n".join(d.text(ALNUM + "+/", 64) for _ in range(3))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


VALUES: dict[str, Callable[[Draw], str]] = {
    "email": email,
    "phone": phone_international,
    "phone_national": phone_national,
    "card": card_number,
    "last4": card_last4,
    "iban": iban,
    "ssn": us_ssn,
    "nino": uk_nino,
    "dni": es_dni,
    "cpf": br_cpf,
    "bsn": nl_bsn,
    "nir": fr_nir,
    "pesel": pl_pesel,
    "steuer": de_tax,
    "pnr": se_pnr,
    "key": api_key,
    "password": password,
    "hexkey": hex_key,
    "pem": private_key,
}


# -- disguises ----------------------------------------------------------------------------------------------------


def fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def zero_width(text: str) -> str:
    middle = len(text) // 2
    return text[:2] + "\u200b" + text[2:middle] + "\u2060" + text[middle:]


def mathematical(text: str) -> str:
    """Letters and digits of the Mathematical Alphanumeric Symbols block, which NFKC maps back."""
    bold = {c: chr(0x1D41A + i) for i, c in enumerate(string.ascii_lowercase)}
    bold |= {c: chr(0x1D7CE + i) for i, c in enumerate(string.digits)}
    return "".join(bold.get(c, c) for c in text)


DISGUISES: dict[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "url": lambda text: quote(text, safe=""),
    "fullwidth": fullwidth,
    "zero_width": zero_width,
    "mathematical": mathematical,
}


# -- look-alikes that are nobody's data ---------------------------------------------------------------------------


def uuid(d: Draw) -> str:
    t = d.text(HEX, 32)
    return f"{t[:8]}-{t[8:12]}-4{t[13:16]}-{d.one('89ab')}{t[17:20]}-{t[20:]}"


def bad_card(d: Draw) -> str:
    good = card_number(d)
    return good[:-1] + str((int(good[-1]) + d.between(1, 9)) % 10)


def bad_iban(d: Draw) -> str:
    good = iban(d)
    return good[:2] + f"{(int(good[2:4]) + d.between(1, 96)) % 100:02d}" + good[4:]


def tracking(d: Draw) -> str:
    forms = [
        f"1Z{d.text('0123456789ABCDEFGHJKLMNPRSTVWXYZ', 6)}03{d.digits(8)}",
        f"{d.one('RLCE')}{d.one('ABX')}{d.digits(9)}{d.one(['DE', 'CN', 'US'])}",
        f"JD{d.digits(18)}",
    ]
    return d.one(forms)


LOOKALIKES: dict[str, Callable[[Draw], str]] = {
    "uuid": uuid,
    "sha1": lambda d: d.text(HEX, 40),
    "sha256": lambda d: d.text(HEX, 64),
    "short_sha": lambda d: d.text(HEX, 7),
    "date": lambda d: f"20{d.between(10, 29)}-{d.between(1, 12):02d}-{d.between(1, 28):02d}",
    "date_dots": lambda d: f"{d.between(1, 28):02d}.{d.between(1, 12):02d}.20{d.between(10, 29)}",
    "time": lambda d: f"{d.below(24):02d}:{d.below(60):02d}:{d.below(60):02d}",
    "stamp": lambda d: f"20{d.between(10, 29)}{d.between(1, 12):02d}{d.between(1, 28):02d}{d.digits(6)}",
    "epoch": lambda d: str(d.between(1_400_000_000, 1_899_999_999)),
    "epoch_ms": lambda d: str(d.between(1_400_000_000, 1_899_999_999) * 1000 + d.below(1000)),
    "year": lambda d: str(d.between(1990, 2035)),
    "n3": lambda d: str(d.between(100, 999)),
    "n4": lambda d: str(d.between(1000, 9999)),
    "n6": lambda d: str(d.between(100_000, 999_999)),
    "n8": lambda d: str(d.between(10_000_000, 99_999_999)),
    "n9": lambda d: str(d.between(100_000_000, 999_999_999)),
    "n10": lambda d: str(d.between(1_000_000_000, 9_999_999_999)),
    "n12": lambda d: str(d.between(100_000_000_000, 999_999_999_999)),
    "money": lambda d: f"{d.between(1, 9)},{d.digits(3)}.{d.digits(2)}",
    "float": lambda d: f"{d.between(1, 89)}.{d.digits(6)}",
    "version": lambda d: f"{d.below(20)}.{d.below(30)}.{d.below(50)}",
    "ip": lambda d: ".".join(str(d.between(1, 254)) for _ in range(4)),
    "mac": lambda d: ":".join(d.text(HEX, 2) for _ in range(6)),
    "isbn": lambda d: f"978-{d.below(10)}-{d.digits(2)}-{d.digits(6)}-{d.below(10)}",
    "sku": lambda d: (
        f"{d.text(string.ascii_uppercase, 2)}{d.digits(2)}-{d.text(string.ascii_uppercase, 4)}-{d.digits(4)}"
    ),
    "bad_card": bad_card,
    "bad_iban": bad_iban,
    "tracking": tracking,
    "blob": lambda d: d.text(ALNUM + "+/", 44),
    "slug": lambda d: f"{d.one(['blue', 'small', 'old'])}-{d.one(['chair', 'lamp', 'desk'])}-{d.digits(5)}",
}
