"""Every refusal code there is, produced by a client of a real server on a desk that misbehaves.

What brings them about is the demo. What each has to look like is said here, and nowhere else.
"""

from __future__ import annotations

import re

import pytest

from comptroller_audit.vocabulary import Code
from tests.scenarios.played_demo import Played, shared_demo

EXPECTED = {
    "unknown_tool": ("tool_mismatch", "never"),
    "invalid_arguments": ("tool_mismatch", "other_arguments"),
    "why_missing": ("tool_mismatch", "other_arguments"),
    "citation_missing": ("tool_mismatch", "other_arguments"),
    "task_unknown": ("tool_mismatch", "other_arguments"),
    "task_open": ("tool_mismatch", "other_arguments"),
    "call_unknown": ("tool_mismatch", "never"),
    "confirmation_invalid": ("tool_mismatch", "same_call"),
    "key_conflict": ("tool_mismatch", "never"),
    "identical_calls": ("tool_mismatch", "person"),
    "citation_stale": ("stale_context", "other_arguments"),
    "confirmation_stale": ("stale_context", "same_call"),
    "record_changed": ("stale_context", "person"),
    "result_gone": ("stale_context", "other_arguments"),
    "denied": ("policy_violation", "other_arguments"),
    "halted": ("policy_violation", "person"),
    "check_failed": ("policy_violation", "other_arguments"),
    "judge_refused": ("policy_violation", "other_arguments"),
    "approval_denied": ("policy_violation", "never"),
    "approval_void": ("policy_violation", "never"),
    "confirmation_declined": ("policy_violation", "never"),
    "task_handed_off": ("policy_violation", "after"),
    "secret_in_arguments": ("policy_violation", "other_arguments"),
    "success_not_found": ("silent_wrong", "never"),
    "verification_failed": ("silent_wrong", "person"),
    "compensated": ("silent_wrong", "same_call"),
    "output_invalid": ("silent_wrong", "person"),
    "budget_exhausted": ("budget", "person"),
    "time_exhausted": ("budget", "person"),
    "approvals_full": ("budget", "person"),
    "lookup_failed": ("upstream", "other_arguments"),
    "judge_unavailable": ("upstream", "after"),
    "timeout": ("upstream", "after"),
    "tool_failed": ("upstream", "other_arguments"),
    "source_down": ("upstream", "after"),
    "tool_quarantined": ("upstream", "person"),
    "in_doubt": ("in_doubt", "person"),
    "overloaded": ("internal", "after"),
    "store_unavailable": ("internal", "after"),
    "bundle_changed": ("internal", "after"),
    "internal": ("internal", "person"),
    "approval_pending": ("none", "person"),
    "confirmation_needed": ("none", "person"),
    "confirmation_expired": ("none", "same_call"),
    "approval_expired": ("none", "same_call"),
    "already_done": ("none", "never"),
    "in_progress": ("none", "after"),
}
"""Class, and what the agent is told about trying again (`after` without its seconds)."""
UNRECORDED = {"store_unavailable"}
CODES = sorted(code.value for code in Code)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return shared_demo(tmp_path_factory)


@pytest.mark.long
def test_no_code_is_left_out(played: Played) -> None:
    assert set(EXPECTED) == set(CODES)
    assert set(played.summary["refusals"]) == set(CODES)


@pytest.mark.long
@pytest.mark.parametrize("code", CODES)
def test_a_code_has_its_class_its_hint_and_its_record(played: Played, code: str) -> None:
    shown = played.summary["refusals"][code]
    assert (shown["class"], shown["retry"].split(":")[0]) == EXPECTED[code]
    assert re.fullmatch(r"never|same_call|other_arguments|person|after:[1-9]\d*", shown["retry"])
    found = played.why(shown["call"])
    if code in UNRECORDED:
        assert found is None
    else:
        assert found is not None
        assert found["call"] == shown["call"]
