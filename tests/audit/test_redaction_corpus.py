"""What the patterns find and what they take by mistake, measured on the corpus; docs/redaction.md publishes it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from comptroller_audit import linear
from comptroller_audit.redaction import Audience, Pattern, Release
from comptroller_audit.vocabulary import Json
from tests.audit.corpus import held_out, tuning
from tests.audit.corpus.cases import Case, fingerprint, leaked, negatives, positives
from tests.audit.corpus.values import DISGUISES, LOOKALIKES, VALUES

SEED, ROUNDS = 20261122, 5
CASES_MIN = 300
PAGE = Path(__file__).resolve().parents[2] / "docs" / "redaction.md"
RELEASE = Release(patterns=list(Pattern))
POSITIVES = positives(held_out.POSITIVES, SEED, ROUNDS)
NEGATIVES = negatives(held_out.NEGATIVES, SEED, ROUNDS)


def released(case: Case) -> Json:
    return RELEASE.release(case.value, Audience.MODEL).value


def published(name: str) -> list[list[str]]:
    """The rows of the page's table under the marker `<!-- measured: name -->`, without the heading."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- measured: {name} -->\n\n?((?:\|.*\n)+)", text)
    assert found is not None, f"{PAGE.name} has no table marked {name}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()[2:]]


def test_the_corpus_is_large_and_is_the_one_that_was_published() -> None:
    assert len(POSITIVES) >= CASES_MIN
    assert len(NEGATIVES) >= CASES_MIN
    assert f"`{fingerprint(POSITIVES)}` and `{fingerprint(NEGATIVES)}`" in PAGE.read_text(encoding="utf-8")


def test_no_held_out_template_was_tuned_on() -> None:
    tuned = [*(str(template) for _, template in tuning.POSITIVES), *map(str, tuning.NEGATIVES)]
    fresh = [*(str(template) for _, template in held_out.POSITIVES), *map(str, held_out.NEGATIVES)]
    assert set(fresh) & set(tuned) == set()
    assert len(fresh) == len(set(fresh))


def test_every_positive_holds_its_canary_until_it_is_released() -> None:
    silent = Release()
    for case in POSITIVES:
        assert case.canaries
        assert leaked(case, silent.release(case.value, Audience.MODEL).value)
    assert {case.kind for case in POSITIVES} == {pattern.value for pattern in Pattern}


def test_a_first_look_over_a_short_text_misses_nothing_that_the_search_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = [
        "ftp://eva:hunter22x@host",
        "send it as basic dXNlcjpwYXNzMTIzNDU2",
        "the passphrase is correct-horse-7",
    ]

    def released() -> list[Json]:
        values = [*(case.value for case in (*POSITIVES, *NEGATIVES)), *alone]
        return [RELEASE.release(v, who).value for v in values for who in (Audience.MODEL, Audience.RECORD)]

    looked_over = released()
    monkeypatch.setattr(linear, "SHORT_CHARS_MAX", -1)
    assert looked_over == released()
    assert not {str(value) for value in looked_over[-len(alone) * 2 :]} & {*alone}


@pytest.mark.parametrize("make", [*VALUES.values(), *LOOKALIKES.values()])
def test_every_made_up_value_is_used(make: Callable[..., str]) -> None:
    names = {id(value): name for name, value in (VALUES | LOOKALIKES).items()}
    text = str([held_out.POSITIVES, held_out.NEGATIVES, tuning.POSITIVES, tuning.NEGATIVES])
    assert re.search(rf"\{{{names[id(make)]}[|}}]", text), f"no template has {names[id(make)]}"


def test_every_disguise_is_among_the_held_out() -> None:
    text = str(held_out.POSITIVES)
    assert [name for name in DISGUISES if f"|{name}}}" not in text] == []


def test_the_published_recall_is_what_is_measured() -> None:
    everything: Counter[str] = Counter(case.kind for case in POSITIVES)
    found = Counter(case.kind for case in POSITIVES if not leaked(case, released(case)))
    rows = [[kind, str(everything[kind]), str(found[kind])] for kind in map(str, Pattern)]
    rows.append(["all", str(everything.total()), str(found.total())])
    assert published("recall") == rows


def test_the_published_false_positives_are_what_is_measured() -> None:
    wrong = [case.value for case in NEGATIVES if released(case) != case.value]
    assert published("false positives") == [[str(len(NEGATIVES)), str(len(wrong))]], wrong


def test_nothing_of_the_tuning_set_is_missed_or_taken_by_mistake() -> None:
    missed = [case for case in positives(tuning.POSITIVES, SEED, ROUNDS) if leaked(case, released(case))]
    wrong = [case for case in negatives(tuning.NEGATIVES, SEED, ROUNDS) if released(case) != case.value]
    assert (missed, wrong) == ([], [])


@pytest.mark.parametrize("pattern", list(Pattern))
def test_without_its_pattern_a_kind_goes_through(pattern: Pattern) -> None:
    """The figures are each pattern's own doing."""
    without = Release(patterns=set(Pattern) - {pattern, Pattern.CARD_LAST4})
    if pattern in (Pattern.CARD_NUMBER, Pattern.CARD_LAST4):
        without = Release(patterns=set(Pattern) - {Pattern.CARD_NUMBER, Pattern.CARD_LAST4})
    cases = [case for case in POSITIVES if case.kind == pattern]
    through = [case for case in cases if leaked(case, without.release(case.value, Audience.MODEL).value)]
    assert len(through) > len(cases) / 2
