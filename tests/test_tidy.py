"""The house rules that a machine can keep: names, sizes, places of `print`, docstrings, and what is left behind.

Each rule is a small function over a file's text, with a sample it must refuse, so that no rule can rot.
"""

from __future__ import annotations

import ast
import functools
import gc
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("server", "tools", "policy", "audit", "budgets")
PACKAGES = tuple(f"{folder}/comptroller_{folder}" for folder in FOLDERS)
NAMES_REFUSED = frozenset({"utils", "util", "common", "core", "helpers", "helper", "manager", "misc"})
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 450
# A ratchet: a path and the lines it may have. Entries only shrink and go; none may be added.
MODULE_LINES_ALLOWED: dict[str, int] = {}
FUNCTION_LINES_ALLOWED: dict[str, int] = {}
# Where writing to standard output is the job. Everywhere else it is the protocol's, or a log's.
PRINTS_ALLOWED = re.compile(r"/(cli|demo)(_[a-z_]+)?(\.py|/)")
# Places that exist on one person's machine only.
PRIVATE_PLACES = re.compile(r"(?<![\w.~/-])/(home|Users|root|work|workspaces?|mnt|private)/[\w.-]+")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
NOT_OURS_TO_READ = {".png", ".ico", ".woff2", ".gz", ".lock"}


@functools.cache
def checkout_files() -> tuple[str, ...]:
    """Paths, relative to the checkout, of what is or could be committed."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        found = [name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked sdist
        found = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
        found = [
            name for name in found if not name.startswith((".venv/", ".git/")) and "__pycache__" not in name
        ]
    return tuple(sorted(name for name in found if (ROOT / name).is_file()))


def python_files(*places: str) -> list[str]:
    wanted = tuple(f"{place}/" for place in places)
    return [name for name in checkout_files() if name.endswith(".py") and name.startswith(wanted)]


@functools.cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def tree_of(text: str) -> ast.Module:
    """The parsed text. CPython 3.11 raises SystemError when a collection runs Python code inside a parse
    (python/cpython#106905), so none may start there."""
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        gc.enable()


def refused_names(name: str) -> list[str]:
    """Path parts that say nothing about what is inside."""
    return [part for part in Path(name).parts if Path(part).stem.strip("_.").lower() in NAMES_REFUSED]


def long_functions(name: str, text: str) -> list[str]:
    findings: list[str] = []
    for node in ast.walk(tree_of(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_ALLOWED.get(f"{name}:{node.name}", FUNCTION_LINES_MAX):
                findings.append(
                    f"{name}:{node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES_MAX} at most"
                )
    return findings


def long_module(name: str, text: str) -> list[str]:
    lines = text.count("\n")
    if lines > MODULE_LINES_ALLOWED.get(name, MODULE_LINES_MAX):
        return [f"{name}: {lines} lines, {MODULE_LINES_MAX} at most; split it by what its parts are for"]
    return []


def stray_prints(name: str, text: str) -> list[str]:
    if PRINTS_ALLOWED.search(f"/{name}"):
        return []
    return [
        f"{name}:{node.lineno}: print; standard output belongs to the protocol, use a structlog logger"
        for node in ast.walk(tree_of(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def missing_docstring(name: str, text: str) -> list[str]:
    if ast.get_docstring(tree_of(text)):
        return []
    return [f"{name}: no module docstring; say in a sentence what it is for"]


def unfinished_notes(name: str, text: str) -> list[str]:
    lines = enumerate(text.splitlines(), 1)
    return [f"{name}:{number}: {found[0]}" for number, line in lines if (found := UNFINISHED.search(line))]


def local_words() -> list[str]:
    """What would name the machine this checkout is on: where it lies, and the home of whoever runs this."""
    places = [ROOT, Path.home(), Path(os.environ.get("VIRTUAL_ENV", ROOT))]
    words = [str(place) for place in places if len(place.parts) > 2]
    machine = platform.node()
    return [*words, *([machine] if len(machine) > 7 else [])]


def machine_names(name: str, text: str) -> list[str]:
    words = local_words()
    return [
        f"{name}:{number}: names a place or a machine that is not in the checkout"
        for number, line in enumerate(text.splitlines(), 1)
        if PRIVATE_PLACES.search(line) or any(word in line for word in words)
    ]


def findings_in(names: list[str], rule: Callable[[str, str], list[str]]) -> str:
    return "\n".join(line for name in names for line in rule(name, text_of(name)))


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    assert refused_names("tools/comptroller_tools/utils.py") == ["utils.py"]
    assert refused_names("policy/core/engine.py") == ["core"]
    assert refused_names("tests/_helpers/ours.py") == ["_helpers"]
    assert refused_names("policy/comptroller_policy/score.py") == []
    assert [name for name in checkout_files() if refused_names(name)] == []


def test_every_function_fits_a_screen() -> None:
    sample = "async def long():\n" + "    x = 1\n" * FUNCTION_LINES_MAX
    assert long_functions("a.py", sample)
    assert not long_functions("a.py", "def short():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1))
    assert findings_in(python_files(*FOLDERS, "tests"), long_functions) == ""


def test_every_module_can_be_read_in_one_sitting() -> None:
    assert long_module("a.py", "\n" * (MODULE_LINES_MAX + 1))
    assert not long_module("a.py", "\n" * MODULE_LINES_MAX)
    assert findings_in(python_files(*FOLDERS), long_module) == ""


def test_the_ratchet_holds_no_entry_that_is_no_longer_needed() -> None:
    for name, allowed in MODULE_LINES_ALLOWED.items():
        assert MODULE_LINES_MAX < text_of(name).count("\n") == allowed, f"{name}: lower or remove its entry"
    for place in FUNCTION_LINES_ALLOWED:
        name, _, function = place.partition(":")
        assert f"def {function}(" in text_of(name), f"{place}: remove its entry"


def test_only_the_command_line_and_the_demo_print() -> None:
    assert stray_prints("audit/comptroller_audit/log.py", "if x:\n    print(x)")
    assert not stray_prints("server/comptroller_server/cli.py", "print(1)")
    assert not stray_prints("server/comptroller_server/demo/scenes.py", "print(1)")
    assert stray_prints("server/comptroller_server/client.py", "print(1)")
    assert findings_in(python_files(*FOLDERS), stray_prints) == ""


def test_every_module_says_what_it_is_for() -> None:
    assert missing_docstring("a.py", "x = 1")
    assert not missing_docstring("a.py", '"""Why."""')
    names = [name for name in python_files(*FOLDERS, "tests") if not Path(name).name.startswith("test_")]
    assert findings_in(names, missing_docstring) == ""  # a test's name is its sentence


def test_nothing_is_left_for_later_in_a_comment() -> None:
    mark = "TO" + "DO"
    assert unfinished_notes("a.py", f"x = 1  # {mark}: later") == [f"a.py:1: {mark}"]
    ours = {"tests/test_tidy.py"}
    names = [name for name in python_files(*FOLDERS, "tests") if name not in ours]
    assert findings_in(names, unfinished_notes) == ""


def test_nothing_names_the_machine_it_was_written_on() -> None:
    assert machine_names("a.md", "see /" + "home/someone/notes.md")
    assert machine_names("a.md", f"run {ROOT}/server") or len(ROOT.parts) <= 2
    assert not machine_names("a.md", "GET https://example.org/home/page and ~/.config, ./root/a, docs/home/x")
    names = [name for name in checkout_files() if Path(name).suffix not in NOT_OURS_TO_READ]
    assert findings_in(names, machine_names) == ""


def test_every_decision_page_says_what_it_is_not_for() -> None:
    pages = [name for name in checkout_files() if re.fullmatch(r"docs/decisions/.*\.md", name)]
    heading = re.compile(r"^#+ Non-goals\s*$", re.MULTILINE)
    assert heading.search("# A\n\n## Non-goals\n\nNone.\n")
    assert [name for name in pages if not heading.search(text_of(name)) and Path(name).stem != "README"] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_holds_one_regular_typed_package(package: str) -> None:
    folder = ROOT / package
    assert (folder / "__init__.py").is_file()
    assert (folder / "py.typed").is_file()
    inside = {Path(name).parts[1] for name in checkout_files() if name.startswith(f"{folder.parent.name}/")}
    assert inside == {folder.name}, "a folder holds its one package and nothing beside it"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_modules_is_a_regular_package(package: str) -> None:
    holders = {(ROOT / name).parent for name in python_files(package)}
    assert [str(folder) for folder in sorted(holders) if not (folder / "__init__.py").is_file()] == []
