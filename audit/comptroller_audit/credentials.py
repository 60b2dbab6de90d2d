"""Keys, tokens and passwords in text: by the marks their issuers give them, and by what they are assigned to.

The shapes of issued keys are those that the issuers publish for secret scanning. A word about passwords is no password:
what is assigned counts only if it looks chosen, or stands in a member of that name (`patterns.AFTER_KEY`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from comptroller_audit.linear import Match, any_of, expression

__all__ = ["credentials"]

_KEY: Final = expression(
    r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----[^\x1e]*?-----END [A-Z0-9 ]{0,40}-----",
    r"|-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----[^\x1e]*",
    r"|\b(?:eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{8,})?",
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
    r"|gl(?:pat|dt|ptt|rt|soat|cbt)-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{20,}",
    r"|(?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}|sk-(?:ant-|proj-|svcacct-|or-)?[A-Za-z0-9_-]{20,}",
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{40,}|hf_[A-Za-z0-9]{30,}|do[opr]_v1_[a-f0-9]{64}|key-[0-9a-f]{32}",
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|sq0[a-z]{3}-[A-Za-z0-9_-]{22,}|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",
    r"|dapi[a-f0-9]{32}|hv[sb]\.[A-Za-z0-9_-]{24,}|AGE-SECRET-KEY-1[A-Z0-9]{58})",
    r"|\bhooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
)
_URL_PASSWORD: Final = expression(
    r"\b[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s:/@\x1e]{0,64}:([^\s@/\x1e]{1,128})@"
)
_AUTHORIZATION: Final = expression(r"(?i)\b(?:bearer|basic)[ :]{1,2}([A-Za-z0-9._~+/=-]{16,})")
_ASSIGNED: Final = expression(
    r"(?i)(?:^|[^a-z])(?:(passwords?|passwd|passwort|kennwort|passphrase|contrasena|mot de passe|pwd|pin code",
    r"|(?:secret|api|app|access|auth|client|private|account|signing|encryption)[ _-]?(?:access[ _-]?)?(?:key|token|secret)(?:[ _-]?id)?",
    r"|(?:refresh|session|bearer|bot)[ _-]?token)|(secret|token))",
    r"[\"']?[ \t]*(?:(:=|=>|[:=])|\b(?:is|was|ist|lautet|es|est)\b[ :]|(\x1f))[ \t]*[\"'`]?([^\s\"'`,;<>{}\x1e\x1f]{4,256})",
)
_ANY: Final = any_of(_KEY, _URL_PASSWORD, _AUTHORIZATION, _ASSIGNED)
"""Most texts hold nothing that even looks like a credential: one pass says so."""
_NO_PASSWORD: Final = re.compile(  # placeholders, and words about passwords
    r"[*x.-]+$|\[|\(|\$|%|//|(?:required|optional|string|null|none|true|false|hidden|redacted|withheld|removed|changeme"
    r"|unknown|invalid|incorrect|wrong|expired|missing|empty|unset|reset|changed|secret|password|token)\W*$",
    re.IGNORECASE,
)
_CURSOR: Final = re.compile(
    r"(?:page|next|previous|prev|continuation|cursor|sync|csrf|delta)[ _-]?$", re.IGNORECASE
)


def credentials(text: str) -> Iterator[tuple[int, int]]:
    """Where credentials stand in an ASCII text."""
    if _ANY.is_missing(text):
        return
    yield from (match.span() for match in _KEY.finditer(text))
    if "://" in text:
        yield from (match.span(1) for match in _URL_PASSWORD.finditer(text))
    for match in _AUTHORIZATION.finditer(text):
        start, end = match.span(1)
        if _is_mixed(text[start:end]):
            yield start, end
    for match in _ASSIGNED.finditer(text):
        start, end = match.span(5)
        end = start + len(text[start:end].rstrip(".)!?" if match.span(4)[0] < 0 else ""))
        if _is_credential(text, text[start:end], match):
            yield start, end


def _is_credential(text: str, value: str, match: Match) -> bool:
    """Whether what is assigned is a credential and not a word about one. A weak name needs a value that looks random."""
    weak, sign, member = (match.span(group)[0] >= 0 for group in (2, 3, 4))
    if _NO_PASSWORD.match(value):
        return False
    if weak:
        cue = match.span(2)[0]
        return len(value) >= 8 and _is_mixed(value) and not _CURSOR.search(text[max(0, cue - 14) : cue])
    if member:
        return True
    if sign:
        return len(value) >= 6 and not (value.isalpha() and (value.islower() or value.istitle()))
    return len(value) >= 6 and _is_mixed(value)


def _is_mixed(value: str) -> bool:
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
