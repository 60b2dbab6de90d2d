"""YAML with lines: what is read, what is refused, and where."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_server.config.yaml_lines import DEPTH_MAX, DOCUMENT_BYTES_MAX, Node, read_yaml


def read(tmp_path: Path, text: str | bytes) -> tuple[Node | None, list[str]]:
    file = tmp_path / "c.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    node, findings = read_yaml(file, "c.yaml")
    return node, [str(finding) for finding in findings]


def test_values_keep_the_line_of_their_key(tmp_path: Path) -> None:
    node, findings = read(tmp_path, "# head\na:\n  b:\n    - 1\n    - x: 2\n  c: |\n    text\n")
    assert findings == []
    assert node is not None
    assert isinstance(node.value, dict)
    a = node.value["a"].value
    assert isinstance(a, dict)
    assert (node.value["a"].line, a["b"].line, a["c"].line) == (2, 3, 6)
    items = a["b"].value
    assert isinstance(items, tuple)
    assert [(item.line, item.at) for item in items] == [(4, 0), (5, 1)]
    assert node.plain() == {"a": {"b": [1, {"x": 2}], "c": "text\n"}}


def test_an_empty_value_stands_at_its_key_and_not_at_the_next_one(tmp_path: Path) -> None:
    node, _ = read(tmp_path, "a:\n  - \n\nb: 1\n")
    assert node is not None
    assert isinstance(node.value, dict)
    items = node.value["a"].value
    assert isinstance(items, tuple)
    (item,) = items
    assert (node.value["a"].line, item.value) == (1, None)
    assert item.line <= 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("1_000", "1_000"), ("2026-01-01", "2026-01-01"),
        ("12:30:45", "12:30:45"), ("=", "="), ("0", 0), ("-7", -7), ("+7", 7), ("0o17", 15), ("0x1F", 31),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("8.0", 8.0), ('"8"', "8"), ("'true'", "true"),
        ("9007199254740991", 2**53 - 1), ("0.1", 0.1),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2_and_nothing_more(tmp_path: Path, text: str, value: object) -> None:
    node, findings = read(tmp_path, f"a: {text}\n")
    assert findings == []
    assert node is not None
    plain = node.plain()
    assert isinstance(plain, dict)
    assert plain["a"] == value
    assert type(plain["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "`a` is here a second time (first in line 1)"),
        ("a: !!python/object:os.system {}\n", 1, "tags"),
        ("a:\n  b: !!str 1\n", 2, "tags"),
        ("%YAML 1.1\n---\na: 1\n", 1, "directives"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: {<<: {b: 1}}\n", 1, "merge keys"),
        ("1: x\n", 1, "the key `1` is not text"),
        ("true: x\n", 1, "the key `true` is not text"),
        ("? [a]\n: b\n", 1, "not a list or a mapping"),
        ("a: &x 1\n*x : 2\n", 2, "a key cannot be an alias"),
        ("a: *nowhere\n", 1, "write the value out"),
        ("a: &x [*x]\n", 1, "write the value out"),
        ("a: .inf\n", 1, "not a number that can be compared"),
        ("a: [1, .nan]\n", 1, "not a number that can be compared"),
        ("a: 007\n", 1, "begins with a zero"),
        ("a: 9007199254740992\n", 1, "not exact"),
        ("a: " + "9" * 5000 + "\n", 1, "not exact"),
        ("a: 0.10000000000000000555\n", 1, "no exact value"),
        ("a: 1e999\n", 1, "no exact value"),
        ('a: "\\ud800"\n', 1, "U+D800"),
        ('a: "x\\0y"\n', 1, "U+0000"),
        ("a: 1\nb: \x07\n", 2, "control character U+0007"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: [1,,2]\n", 1, "not YAML"),
        ("a: 'open\n", 2, "not YAML"),
        ("\ta: 1\n", 1, "not YAML"),
        ('a: "\\U99999999"\n', 1, "not YAML"),
        ("a: " + "[" * 200_000, 1, f"more than {DEPTH_MAX} levels"),
        ("a: " + "{a: " * 5000, 1, f"more than {DEPTH_MAX} levels"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where_and_what(tmp_path: Path, text: str | bytes, line: int, said: str) -> None:
    _, findings = read(tmp_path, text)
    assert any(finding.startswith(f"c.yaml:{line}: ") and said in finding for finding in findings), findings


def test_several_things_wrong_are_all_told(tmp_path: Path) -> None:
    _, findings = read(tmp_path, "a: 1\na: 2\nb: !x 1\nc: .nan\n")
    assert [finding.split(": ")[0] for finding in findings] == ["c.yaml:2", "c.yaml:3", "c.yaml:4"]


def test_an_alias_is_what_it_stands_for_at_its_own_line(tmp_path: Path) -> None:
    node, findings = read(tmp_path, "a: &x {k: [1]}\nb: *x\n")
    assert findings == []
    assert node is not None
    assert isinstance(node.value, dict)
    assert node.plain() == {"a": {"k": [1]}, "b": {"k": [1]}}
    assert node.value["b"].line == 2


def test_an_alias_bomb_is_refused_before_it_opens(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    node, findings = read(tmp_path, "\n".join(lines))
    assert node is None
    assert any("aliases counted in full" in finding for finding in findings)


def test_aliases_cannot_hide_depth(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60)]
    _, findings = read(tmp_path, "\n".join(lines))
    assert any(f"more than {DEPTH_MAX} levels" in finding for finding in findings)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    _, findings = read(tmp_path, b"a: " + b"x" * DOCUMENT_BYTES_MAX)
    assert len(findings) == 1
    assert "larger than" in findings[0]


def test_a_file_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    node, findings = read_yaml(tmp_path / "none.yaml", "none.yaml")
    assert node is None
    assert "No such file" in str(findings[0])


@given(st.text(alphabet=st.sampled_from(list("ab:- \n[]{}&*!|>'\"#%?,0.\\utx<\t~@`")), max_size=60))
def test_any_text_gives_json_values_or_a_finding_with_its_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        node, findings = read(Path(folder), text)
    assert all(finding.startswith("c.yaml:") and finding[7].isdigit() for finding in findings)
    if node is not None:
        assert json.loads(json.dumps(node.plain(), allow_nan=False).encode()) == node.plain()
    elif not findings:
        assert re.sub(r"(?m)#.*$|^---|\.\.\.$", "", text).strip() == ""
