"""Which addresses fit what was accepted: nothing leads up, out, to another server, or means two things."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_tools.upstream.addresses import Addresses, Template
from comptroller_tools.upstream.definitions import Kind, Unusable, Written, kind_of, read_listing
from comptroller_tools.upstream.relayed import check_relayed

ONE = Template.of("docs:///pages/{page}")
MANY = Template.of("docs:///tree/{+path}")
PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "%2e", "%2E%2e", "%2f", "%2F", "%5c", "%25", "%252e", "%00", "%0a", "%c0%ae", "%e2%80%8b",
     "a", "b.c", "~", ":", "@", ";", "?", "#", "&", "=", "{", "}", " ", "é", "\u202e", "%", "//", "file:", "..;"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "address"),
    [
        (ONE, "docs:///pages/7"),
        (ONE, "docs:///pages/a.b~c_d-e"),
        (ONE, "docs:///pages/two%20words"),
        (ONE, "docs:///pages/%C3%A9"),
        (MANY, "docs:///tree/a/b.txt"),
        (Template.of("greeting://{name}"), "greeting://ann"),
        (Template.of("https://example.com/{a}/{b}"), "https://example.com/x/y"),
    ],
)
def test_an_address_of_the_template_fits(template: Template, address: str) -> None:
    assert template.fits(address)


@pytest.mark.parametrize(
    "address",
    [
        "docs:///pages/",
        "docs:///pages/..",
        "docs:///pages/%2e%2e",
        "docs:///pages/..%2fsecret",
        "docs:///pages/a/b",
        "docs:///pages/a?b",
        "docs:///pages/a#b",
        "docs:///pages/a%00",
        "docs:///pages/%252e%252e",
        "docs:///pages/%c0%ae",
        "docs:///pages/é",
        "DOCS:///pages/7",
        "other:///pages/7",
        "docs:///pages/7\n",
        "docs:///pages/" + "x" * 3_000,
        "docs:///tree/../secret",
        "docs:///tree/a/..;/b",
        "docs:///tree/a/%2e",
        "docs:///tree/a?b",
    ],
)
def test_what_leads_elsewhere_or_means_two_things_fits_nothing(address: str) -> None:
    assert not ONE.fits(address)
    assert not MANY.fits(address)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_whatever_fits_stays_below_the_template_however_often_it_is_decoded(tail: str) -> None:
    for template, slashes in ((ONE, 0), (MANY, 7)):
        start = template.text.partition("{")[0]
        if not template.fits(start + tail):
            continue
        once = unquote(tail)
        assert unquote(once) == once
        assert once.isprintable()
        assert "\\" not in once
        assert once.count("/") == tail.count("/") <= slashes
        assert not {".", ".."} & set(once.split("/"))


@given(st.text(min_size=1, max_size=20))
def test_a_value_that_is_written_as_it_should_be_fits_unless_it_is_a_path(value: str) -> None:
    try:
        written = quote(value, safe="")
    except UnicodeEncodeError:
        return
    allowed = value.isprintable() and not set(value) & set("/\\%?#;:@") and value not in (".", "..")
    if not allowed:
        assert not ONE.fits(f"docs:///pages/{written}")
    elif value.isascii():
        assert ONE.fits(f"docs:///pages/{written}")


@pytest.mark.parametrize(
    "text",
    [
        "{scheme}://a/b",
        "https://{host}/a",
        "https://a{more}/b",
        "docs:///{a}{b}",
        "docs:///{a}/{a}",
        "docs:///{?q}",
        "docs:///{/a*}",
        "docs:///{a",
        "docs:///none",
        "comptroller:files:docs:///{a}",
        "docs:///a\u200b/{b}",
        "docs:///%2e%2f/{b}",
    ],
)
def test_a_template_that_nobody_could_judge_is_not_offered(text: str) -> None:
    with pytest.raises(Unusable):
        check_relayed(Written.of({"uriTemplate": text, "name": "x"}, Kind.TEMPLATE))


def test_the_resource_of_the_very_address_comes_before_a_template() -> None:
    resource: dict[str, Any] = {"uri": "docs:///pages/7", "name": "seven"}
    pins = [
        Written.of({"uriTemplate": ONE.text, "name": "pages"}, Kind.TEMPLATE),
        Written.of(resource, Kind.RESOURCE),
    ]
    addresses = Addresses({pin.name: pin for pin in pins})
    found = [addresses.find(address) for address in ("docs:///pages/7", "docs:///pages/8", "docs:///8")]
    assert [pin.kind if pin else None for pin in found] == [Kind.RESOURCE, Kind.TEMPLATE, None]


def test_no_tool_can_pass_for_a_prompt_or_a_resource() -> None:
    found, wrong = read_listing([{"name": "prompt:review"}, {"name": "resource:*"}, {"name": "plain"}])
    assert [(name, kind_of(name)) for name in found] == [("plain", Kind.TOOL)]
    assert len(wrong) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        "no list",
        [{"description": "nameless"}],
        [{"name": "a"}, {"name": "A"}],
        [{"name": "a b"}],
        [{"name": "a"}] * 40,
    ],
)
def test_a_prompt_whose_arguments_cannot_be_told_apart_is_not_offered(arguments: Any) -> None:
    with pytest.raises(Unusable):
        check_relayed(Written.of({"name": "p", "arguments": arguments}, Kind.PROMPT))
