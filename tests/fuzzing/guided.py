"""Coverage-guided fuzzing without a tool for it: inputs that reach a line after another for the first time breed further.

Slower than a fuzzer in C by far, and enough for small parsers. The same seed does the same.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType, ModuleType
from typing import Any

__all__ = ["Guided", "value_of"]

BYTES_MAX = 4_096
TOKENS = (b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"null", b"-0", b"1e400", b"0.1", b"9" * 20, b"\\u0000", b"\\ud800",
          b"\xff", b"\xc3\x28", b"\xe2\x80\xae", b"\n", b"\r\n", b"\x00", b" ", b"type", b"$ref", b"#/", b"a@b.example")  # fmt: skip

Arc = tuple[str, int, int]


class Guided:
    """A growing corpus for one target. `modules` are those whose lines count."""

    def __init__(self, corpus: Iterable[bytes], *modules: ModuleType, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._files = {str(module.__file__) for module in modules}
        self._begin = list(corpus)
        self.corpus: list[bytes] = []
        self.arcs: set[Arc] = set()

    def run(self, target: Callable[[bytes], None], rounds: int) -> None:
        """Give `target` its first corpus, then `rounds` inputs bred from what reached something new. Raises what it raises."""
        for data in self._begin:
            self._try(target, data)
        for _ in range(rounds):
            self._try(target, self._bred())

    def run_for(self, target: Callable[[bytes], None], seconds: float) -> None:
        """The same, for so long."""
        end = time.monotonic() + seconds
        self.run(target, 0)
        while time.monotonic() < end:
            self._try(target, self._bred())

    def _try(self, target: Callable[[bytes], None], data: bytes) -> None:
        found: set[Arc] = set()
        before = sys.gettrace()
        sys.settrace(self._tracing(found))
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise
        finally:
            sys.settrace(before)
        if not found <= self.arcs or data in self._begin:
            self.arcs |= found
            self.corpus.append(data)

    def _tracing(self, found: set[Arc]) -> Callable[[FrameType, str, Any], Any]:
        def begin(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code.co_filename not in self._files:
                return None
            last = frame.f_lineno

            def line(inner: FrameType, event: str, _: Any) -> Any:
                nonlocal last
                if event == "line":
                    found.add((inner.f_code.co_filename, last, inner.f_lineno))
                    last = inner.f_lineno
                return line

            return line

        return begin

    def _bred(self) -> bytes:
        chance = self._random
        data = bytearray(chance.choice(self.corpus))
        for _ in range(chance.choice((1, 1, 2, 4))):
            at, end = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
            match chance.randrange(7):
                case 0 if data:
                    data[at % len(data)] = chance.randrange(256)
                case 1:
                    data[at:at] = chance.choice(TOKENS)
                case 2:
                    del data[at : min(end, at + 16)]
                case 3:
                    data[at:at] = data[at:end]
                case 4:
                    data[at:end] = chance.randbytes(chance.choice((1, 4, 16)))
                case 5:
                    other = chance.choice(self.corpus)
                    data[at:end] = other[: chance.randint(0, len(other))]
                case _:
                    data[at:end] = chance.choice(TOKENS) * chance.choice((1, 2, 64))
        return bytes(data[:BYTES_MAX])


WORDS = ("type", "properties", "items", "$ref", "$defs", "anyOf", "oneOf", "allOf", "enum", "const", "required", "a", "b", "object",
         "array", "string", "integer", "number", "boolean", "null", "#", "#/$defs/a", "#/properties/b", "format", "pattern", "a/b~1")  # fmt: skip


def value_of(data: bytes) -> Any:
    """A JSON value that bytes spell, whatever they are: what reads values is reached where mutated text would not parse."""
    left = iter(data)

    def one(depth: int) -> Any:
        match next(left, 7) % 8:
            case 0 | 1 | 2 if depth < 8:
                return {WORDS[next(left, 0) % len(WORDS)]: one(depth + 1) for _ in range(next(left, 0) % 5)}
            case 3 if depth < 8:
                return [one(depth + 1) for _ in range(next(left, 0) % 4)]
            case 4 | 5:
                return WORDS[next(left, 0) % len(WORDS)]
            case 6:
                return (0, -1, 2**53, 0.5, 1e300, True, False)[next(left, 0) % 7]
            case _:
                return None

    return one(0)
