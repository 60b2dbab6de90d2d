"""YAML 1.2 text to plain values that remember their file and line.

Only what a configuration needs: one document of mappings, lists and scalars of the core schema
(YAML 1.2.2, §10.3). Tags, directives, merge keys and duplicate keys are refused, aliases are bounded, and a
number must be exact, so that what is read here is what the canonical bytes of a bundle can hold.
The parser's events are read one by one: nothing recurses on the input and no Python object is ever built
from a tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from comptroller_audit.vocabulary import Json
from comptroller_policy.errors import Finding

__all__ = ["DEPTH_MAX", "DOCUMENT_BYTES_MAX", "NODES_MAX", "Node", "Scalar", "read_yaml", "yaml_text"]

DOCUMENT_BYTES_MAX = 1_048_576
"""Bytes in one file."""
DEPTH_MAX = 32
"""Mappings and lists inside each other, aliases included."""
NODES_MAX = 50_000
"""Values in one file after every alias is replaced by what it stands for."""
INTEGER_MAX = 2**53 - 1
"""Beyond it an integer is not exact in every JSON reader (RFC 8259 §6)."""

Scalar: TypeAlias = bool | int | float | str | None

_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place: `line` is where its key stands, or the value itself in a list (from 1).

    `at` is the index that a list entry has in its own file. `value` stays out of the repr: it may be a secret.
    """

    file: str
    line: int
    value: Scalar | tuple[Node, ...] | Mapping[str, Node] = field(repr=False)
    at: int = 0
    size: int = 1
    height: int = 0

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    def plain(self) -> Json:
        """The value without places, as JSON values."""
        if isinstance(self.value, Mapping):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return self.value


@dataclass(slots=True)
class _Open:
    """A mapping or a list that has begun and not ended; `entries` is used by mappings, `items` by lists."""

    line: int
    is_mapping: bool
    anchor: str | None
    entries: dict[str, Node] = field(default_factory=dict[str, Node])
    items: list[Node] = field(default_factory=list[Node])
    key: tuple[str, int] | None = None
    key_bad: bool = False

    def expects_key(self) -> bool:
        return self.is_mapping and self.key is None and not self.key_bad


class _Stop(Exception):
    """Nothing after this point of the file can be read; the findings say why."""


def read_yaml(path: Path, shown: str) -> tuple[Node | None, list[Finding]]:
    """Read one file; `shown` is its name in findings. None when it holds nothing or cannot be read.

    Never raises for what the file holds: everything wrong is a finding with `file:line`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return None, [
            Finding(shown, f"the file cannot be read ({reason}); check its name and its permissions")
        ]
    if len(data) > DOCUMENT_BYTES_MAX:
        return None, [
            Finding(
                f"{shown}:1",
                f"the file is larger than {DOCUMENT_BYTES_MAX} bytes; split it into comptroller.d/",
            )
        ]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [Finding(f"{shown}:{line}", "this is not UTF-8; save the file as UTF-8")]
    unsafe = _UNSAFE.search(text)
    if unsafe:
        line = text.count("\n", 0, unsafe.start()) + 1
        return None, [Finding(f"{shown}:{line}", f"control character U+{ord(unsafe[0]):04X}; remove it")]
    return _Reader(shown).read(text)


def yaml_text(text: str, shown: str) -> tuple[Node | None, list[Finding]]:
    """The same for a text that is in hand already."""
    return _Reader(shown).read(text)


class _Reader:
    """Builds one tree from the parser's events, collecting findings on the way."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.findings: list[Finding] = []
        self.open: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.root: Node | None = None
        self.documents = 0
        self.nodes = 0
        self.line = 1

    def read(self, text: str) -> tuple[Node | None, list[Finding]]:
        # `Any`: ruamel types its events as a union without their attributes.
        parser: Any = YAML(typ="safe", pure=True)
        try:
            for event in parser.parse(text):
                self._event(event)
        except _Stop:
            return None, self.findings
        except MarkedYAMLError as error:
            self._not_yaml(error)
            return None, self.findings
        except Exception as error:  # noqa: BLE001 - on some odd escapes the parser raises whatever it meets
            self._find(
                self.line, f"this is not YAML ({type(error).__name__}) at or after this line; check it"
            )
            return None, self.findings
        return self.root, self.findings

    def _not_yaml(self, error: Any) -> None:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(str(part) for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else self.line
        self._find(line, f"this is not YAML: {said}; check indents and quotes")

    def _find(self, line: int, message: str) -> None:
        self.findings.append(Finding(f"{self.shown}:{line}", message))

    def _event(self, event: Any) -> None:
        kind = type(event).__name__
        line: int = event.start_mark.line + 1
        # An empty value is marked where the next token begins; its key's line is the useful one.
        if not (kind == "ScalarEvent" and event.value == "" and not event.style):
            self.line = max(self.line, line)
        if kind == "DocumentStartEvent":
            self._document(event)
        elif kind == "AliasEvent":
            self._alias(event.anchor)
        elif kind == "ScalarEvent":
            self._tag(event)
            self._scalar(event)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._tag(event)
            self._begin(kind == "MappingStartEvent", event.anchor)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._end()

    def _document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self._find(
                self.line, "a second document begins here; keep one document in a file and remove the `---`"
            )
            raise _Stop
        if event.version not in (None, (1, 2)) or event.tags:
            self._find(1, "directives are not used here; remove the line that begins with `%`")

    def _tag(self, event: Any) -> None:
        if event.tag is not None:
            self._find(
                self.line, "tags (`!…`) are not used here; remove it, and quote the value if it is text"
            )

    def _begin(self, is_mapping: bool, anchor: str | None) -> None:
        if self.open and self.open[-1].expects_key():
            self._find(self.line, "a key must be one line of text, not a list or a mapping")
            raise _Stop
        if len(self.open) >= DEPTH_MAX:
            self._find(self.line, f"more than {DEPTH_MAX} levels inside each other; make it flatter")
            raise _Stop
        self.open.append(_Open(self.line, is_mapping, anchor))

    def _end(self) -> None:
        done = self.open.pop()
        children = tuple(done.entries.values()) if done.is_mapping else tuple(done.items)
        node = Node(
            self.shown,
            done.line,
            done.entries if done.is_mapping else children,
            size=1 + sum(child.size for child in children),
            height=1 + max((child.height for child in children), default=0),
        )
        self._place(node, done.anchor)

    def _scalar(self, event: Any) -> None:
        value: str = event.value
        parsed = self._plain_scalar(value) if event.implicit[0] and not event.style else value
        unsafe = _UNSAFE.search(value)
        if unsafe:
            self._find(
                self.line, f"the text holds U+{ord(unsafe[0]):04X}, which no value here needs; remove it"
            )
            parsed = None
        if self.open and self.open[-1].expects_key():
            self._key(value, is_text=isinstance(parsed, str))
        else:
            self._place(Node(self.shown, self.line, parsed), event.anchor)

    def _plain_scalar(self, text: str) -> Scalar:
        """A scalar written without quotes, by the core schema; what is not exact is a finding."""
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        if _NOT_FINITE.fullmatch(text):
            self._find(
                self.line, f"`{text}` is not a number that can be compared; write a limit or remove the key"
            )
            return None
        if _INTEGER.fullmatch(text):
            return self._integer(text)
        if _FLOAT.fullmatch(text):
            return self._float(text)
        return text

    def _integer(self, text: str) -> int | None:
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            self._find(
                self.line, f"`{text[:40]}` begins with a zero; write it without, or quote it if it is text"
            )
            return None
        value = int(text, 0) if len(digits) <= 20 else INTEGER_MAX + 1
        if abs(value) > INTEGER_MAX:
            self._find(
                self.line, f"`{text[:40]}` is beyond ±{INTEGER_MAX} and not exact; quote it if it is text"
            )
            return None
        return value

    def _float(self, text: str) -> float | None:
        value = float(text) if len(text) <= 40 else None
        if value is None or Decimal(repr(value)) != Decimal(text):
            self._find(self.line, f"`{text[:40]}` has no exact value as a double; write fewer digits")
            return None
        return value

    def _key(self, key: str, *, is_text: bool) -> None:
        top = self.open[-1]
        if not is_text:
            self._find(self.line, f"the key `{key[:40]}` is not text; put it in quotes")
            top.key_bad = True
        elif key == "<<":
            self._find(self.line, "merge keys (`<<`) are not YAML 1.2; write the keys out")
            top.key_bad = True
        elif key in top.entries:
            first = top.entries[key].line
            self._find(
                self.line, f"`{key[:80]}` is here a second time (first in line {first}); keep one of them"
            )
            top.key_bad = True
        else:
            top.key = (key, self.line)

    def _alias(self, anchor: str) -> None:
        if self.open and self.open[-1].expects_key():
            self._find(self.line, "a key cannot be an alias; write the key out")
            raise _Stop
        node = self.anchors.get(anchor)
        if node is None:
            self._find(
                self.line,
                f"`*{anchor[:40]}` is used before `&{anchor[:40]}` is complete; write the value out",
            )
            raise _Stop
        if len(self.open) + node.height > DEPTH_MAX:
            self._find(self.line, f"this alias makes more than {DEPTH_MAX} levels; write a smaller value out")
            raise _Stop
        # Each node of the value is counted again: this is what stops an alias bomb.
        self.nodes += node.size - 1
        self._place(node, None)

    def _place(self, node: Node, anchor: str | None) -> None:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            self._find(
                self.line, f"more than {NODES_MAX} values, aliases counted in full; split or shorten the file"
            )
            raise _Stop
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.root = node
            return
        top = self.open[-1]
        if top.key_bad:
            top.key_bad = False
        elif top.key is not None:
            key, line = top.key
            top.entries[key] = replace(node, line=line)
            top.key = None
        else:
            top.items.append(replace(node, at=len(top.items)))
