"""`GET /decide/<call>`: how a call that waits for people is decided. One page for every id, and nothing on it decides.

Whoever opens it is nobody yet: no token, no cookie. So it says nothing that the link does not say, known, foreign and
made-up ids look alike, and there is nothing to press. It runs no script and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib

from comptroller_server.call.roads import is_our_id
from comptroller_server.people.pages import DECIDE

__all__ = ["HEADERS", "page_of"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --ground: #fbfbfa; --card: #fff; --line: #dcdfe3;
  --mark: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a3abb6; --ground: #15181c; --card: #1d2126; --line: #343a42; --mark: #7ab7f5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; }
dd { margin: .1rem 0 0; }
.id { color: var(--soft); overflow-wrap: anywhere; }
.note { border-left: 3px solid var(--mark); padding: .1rem 0 .1rem .9rem; margin: 1.25rem 0; }
ol, dl { margin: 0; padding: 0; }
li { list-style: none; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; margin: .6rem 0; }
code { font: .88rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
li code { display: block; user-select: all; -webkit-user-select: all; cursor: copy; }
li span { color: var(--soft); font-size: .92rem; }
dt { font-weight: 600; margin-top: .7rem; }
p > code { white-space: nowrap; }
.id > code { white-space: normal; }
.last { margin-top: 2rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>How this call is decided</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>How this call is decided</h1>
<p class="id">Call <code>{call}</code></p>
<div class="note">
<p>An agent may have proposed a call that a person must agree to first. You decide it on the command line, with an
approver's credential that the agent does not hold. The agent cannot decide it, and neither can this page: there is
nothing to press here, and having opened it means nothing.</p>
</div>
<h2>Look, then decide</h2>
<p>Run these where Comptroller is installed. A click on a line selects all of it, to copy. Add
<code>--config PATH</code> if the configuration lies elsewhere.</p>
<ol>
<li><code>comptroller approvals show {call}</code>
<span>All that you would agree to: the exact arguments, the record as it is, the rule that asks, and apart from that what
the agent says about it.</span></li>
<li><code>comptroller approvals approve {call}</code>
<span>Shows the same and asks. Your yes is for exactly that, and is used once.</span></li>
<li><code>comptroller approvals edit {call} --set NAME=VALUE</code>
<span>Changes an argument first. People are asked anew, and you are an author of the changed call.</span></li>
<li><code>comptroller approvals deny {call}</code>
<span>The call ends, and nothing of it happens.</span></li>
<li><code>comptroller why {call}</code>
<span>Everything on record: who asked, what was read, who agreed, what happened.</span></li>
</ol>
<p>The commands ask for your credential, or take it from a file: <code>--credential-file PATH</code>. Go on at your
client when it is decided.</p>
<h2>What its state means</h2>
<dl>
<dt>pending</dt><dd>It waits for people. Nothing has been done.</dd>
<dt>committed</dt><dd>It was agreed to and is running now.</dd>
<dt>done</dt><dd>It ran, once.</dd>
<dt>denied, expired, void</dt><dd>It ended without being done: a person said no, nobody decided in time, or it could no
longer run as it was approved.</dd>
<dt>failed_before_effect, not_done</dt><dd>It was agreed to, and it is known that nothing happened.</dd>
<dt>in_doubt</dt><dd>It may or may not have happened; a person must look. It is never tried again by itself.</dd>
<dt>handed_off</dt><dd>It happened and is wrong; a person has it now.</dd>
<dt>compensated</dt><dd>It happened and was taken back.</dd>
</dl>
<p class="id last">This page is the same for every call, whether there is such a call or not.</p>
</main>
</body>
</html>
"""

_STYLE_SHA256 = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_CSP = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_SHA256}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
HEADERS = (
    (b"content-security-policy", _CSP.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-robots-tag", b"noindex"),
)
"""Nothing runs, nothing loads, nobody frames it. `no-store` and `nosniff` every answer of this server has."""


def page_of(path: str) -> bytes | None:
    """The page at `path`, or None where none is: only ids as we make them have one, and all of those have."""
    call = path.removeprefix(DECIDE)
    if call == path or is_our_id(call) is None:
        return None
    return _PAGE.format(style=_STYLE, call=call).encode()
