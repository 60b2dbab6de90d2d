"""Tried cases as JUnit XML, which every CI shows: a suite a file, a failure for what differs, an error for the unusable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Protocol
from xml.etree import ElementTree as ET

from comptroller_policy.errors import Finding
from comptroller_server.rehearsal.trying import CaseEnd

__all__ = ["Ended", "junit_xml"]

_COUNTED = {"tests": tuple(CaseEnd), "failures": (CaseEnd.FAILED,), "errors": (CaseEnd.UNUSABLE,)}
_PROBLEM = {CaseEnd.FAILED: "failure", CaseEnd.UNUSABLE: "error"}


class Ended(Protocol):
    """A case that came to an end: where it stands, what it is called, and what came of it."""

    @property
    def file(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def end(self) -> CaseEnd: ...
    @property
    def because(self) -> str: ...
    @property
    def took_s(self) -> float: ...


def junit_xml(
    tried: Sequence[Ended],
    wrong: Sequence[Finding],
    told: Callable[[str], str],
    command: str = "comptroller policy test",
) -> str:
    """The document, `told` being what of a text may be shown: released, and without what XML cannot hold.

    What is `wrong` with files that do not load is a suite of its own, so that a broken file is never a green run.
    """
    root = ET.Element("testsuites", _counts(command, tried, len(wrong)))
    if wrong:
        _unread(root, wrong, told)
    for file in dict.fromkeys(one.file for one in tried):
        own = [one for one in tried if one.file == file]
        suite = ET.SubElement(root, "testsuite", _counts(told(file), own))
        for one in own:
            place = told(PurePath(file).name)
            attributes = {"classname": place, "name": told(one.name), "time": f"{one.took_s:.3f}"}
            case = ET.SubElement(suite, "testcase", attributes)
            if (tag := _PROBLEM.get(one.end)) is not None:
                said = told(one.because)
                problem = ET.SubElement(case, tag, {"message": said, "type": one.end.value})
                problem.text = f"{told(one.where)}: {said}"
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _unread(root: ET.Element, wrong: Sequence[Finding], told: Callable[[str], str]) -> None:
    suite = ET.SubElement(root, "testsuite", _counts("files", [], len(wrong)))
    for finding in wrong:
        place = {"classname": "files", "name": told(finding.where), "time": "0.000"}
        said = {"message": told(finding.message), "type": CaseEnd.UNUSABLE.value}
        ET.SubElement(ET.SubElement(suite, "testcase", place), "error", said).text = told(str(finding))


def _counts(name: str, tried: Sequence[Ended], unread: int = 0) -> dict[str, str]:
    counted = {
        word: str(sum(one.end in ends for one in tried) + (unread if CaseEnd.UNUSABLE in ends else 0))
        for word, ends in _COUNTED.items()
    }
    return {"name": name, **counted, "time": f"{sum(one.took_s for one in tried):.3f}"}
