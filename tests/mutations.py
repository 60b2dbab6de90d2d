"""The guards, and for each the test that notices when it is gone: `(file, text, replacement, test)`.

`tests/test_mutations.py` takes one guard away at a time, in a copy of the tree, and demands that the named test fails.
`text` stands exactly once in its file. A row whose text is gone says that the guard moved: move the row with it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True, slots=True)
class Mutation:
    """Replace `text` in `file` by `replacement`; `test` must then fail."""

    file: str
    text: str
    replacement: str
    test: str

    @property
    def name(self) -> str:
        """Readable in a test report: the module and the test that guards it."""
        return f"{self.file.rpartition('/')[2]}-{self.test.rpartition('::')[2]}"


_AUDIT = "audit/comptroller_audit"
_BUDGETS = "budgets/comptroller_budgets"
_POLICY = "policy/comptroller_policy"
_SERVER = "server/comptroller_server"
_UPSTREAM = "tools/comptroller_tools/upstream"
_S = "tests/scenarios"

MUTATIONS: tuple[Mutation, ...] = (
    # -- policies as code ------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/rehearsal/deciding.py",
        "for name in sorted(needed - asked.facts.keys()):",
        "for name in ():",
        "tests/server/test_policy_cases.py::test_a_case_that_cannot_be_decided_is_neither_passed_nor_failed",
    ),
    Mutation(
        f"{_SERVER}/rehearsal/trying.py",
        "if decision.errors and ERROR_DENY not in (text.policies or ()):",
        "if False:",
        "tests/server/test_policy_cases.py::test_an_error_while_deciding_is_only_expected_by_its_name",
    ),
    Mutation(
        f"{_SERVER}/rehearsal/trying.py",
        "if text.phase is Phase.AFTER and decided.phase is Phase.BEFORE:",
        "if False:",
        "tests/server/test_policy_cases.py::test_what_came_back_is_decided_after_the_call",
    ),
    # -- the report ------------------------------------------------------------------------------------------------
    Mutation(
        f"{_AUDIT}/report_calls.py",
        "allowed = False if action is None else action.allowed",
        "allowed = True if action is None else action.allowed",
        f"{_S}/test_report.py::test_a_side_effect_that_the_record_cannot_explain_breaks_containment",
    ),
    Mutation(
        f"{_AUDIT}/report_calls.py",
        'return decision.get("verdict") == "allow" and not decision.get("errors")',
        "return True",
        "tests/audit/test_report.py::test_a_decision_that_denied_asked_or_erred_proves_nothing",
    ),
    Mutation(
        f"{_AUDIT}/report_calls.py",
        "_allows(packet) if entry.packet is not None else None",
        "_allows(packet) if entry.packet is not None else True",
        f"{_S}/test_report.py::test_a_decision_that_retention_erased_is_not_passed_off_as_proof",
    ),
    Mutation(
        f"{_AUDIT}/report.py",
        "succeeded = ends[TaskEnd.SUCCEEDED]",
        "succeeded = ends.total()",
        f"{_S}/test_report.py::test_cost_per_success_divides_everything_by_the_successes_alone",
    ),
    Mutation(
        f"{_SERVER}/reporting/gates.py",
        "        if self.found is None:\n            return False\n",
        "        if self.found is None:\n            return True\n",
        f"{_S}/test_report.py::test_an_empty_store_passes_no_gate",
    ),
    Mutation(
        f"{_SERVER}/reporting/page.py",
        'return escape(text or "", quote=True)',
        'return text or ""',
        "tests/server/test_report_page.py::test_names_from_elsewhere_stay_text",
    ),
    Mutation(
        f"{_SERVER}/reporting/plots.py",
        'return _tag("text", escape(text), x=x, y=y, text_anchor=anchor)',
        'return _tag("text", text, x=x, y=y, text_anchor=anchor)',
        "tests/server/test_report_page.py::test_names_from_elsewhere_stay_text",
    ),
    # -- how long calls took ---------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/took.py",
        'self.packet["took_ms"] = self.took.in_packet(Step.RECORD)',
        "pass",
        f"{_S}/test_took.py::test_waiting_for_the_last_commit_counts",
    ),
    # -- what models use ------------------------------------------------------------------------------------------
    Mutation(
        f"{_BUDGETS}/metering.py",
        "if used >= most:",
        "if False:",
        f"{_S}/test_metering.py::test_a_task_that_reported_its_tokens_is_refused_its_next_call",
    ),
    Mutation(
        f"{_BUDGETS}/metering.py",
        "self.charged.at_least(seen).at_least(reported + unreported)",
        "(reported + unreported)",
        "tests/budgets/test_metering.py::test_a_client_that_reports_too_little_is_charged_what_was_seen",
    ),
    Mutation(
        f"{_BUDGETS}/metering.py",
        "tokens.at_least(old.get(name, NO_TOKENS))",
        "tokens",
        f"{_S}/test_metering.py::test_reports_of_roles_and_models_add_up_and_only_raise",
    ),
    Mutation(
        f"{_SERVER}/call/metering.py",
        "            self._keep((case.tenant, case.task.id), rest)\n",
        "            pass\n",
        f"{_S}/test_metering.py::test_what_a_refused_call_reported_counts_at_the_next_one",
    ),
    Mutation(
        f"{_BUDGETS}/ledger.py",
        "    return limit.first_micro\n",
        "    return limit.max_micro\n",
        f"{_S}/test_widening.py::test_reads_alone_never_get_beyond_the_first_part",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "or not stands or not is_verified:",
        "or not stands:",
        f"{_S}/test_widening.py::test_a_change_that_nothing_verified_opens_nothing",
    ),
    Mutation(
        f"{_BUDGETS}/limits.py",
        "            if limit.unit not in covered\n",
        "            if False\n",
        f"{_S}/test_widening.py::test_a_limit_per_task_brings_a_window_of_a_hundred_tasks_a_day",
    ),
    Mutation(
        f"{_SERVER}/config/checks.py",
        "if model not in written.prices:",
        "if False:",
        f"{_S}/test_metering.py::test_what_could_not_be_counted_does_not_load",
    ),
    # -- no record, no effect -------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/pipeline.py",
        "                    if stop is None:\n                        await self._act(case)\n",
        "                    if True:\n                        await self._act(case)\n",
        f"{_S}/test_repeats.py::test_a_create_that_is_done_is_answered_again_and_says_so",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "            raise\n        except BaseException:\n            self._dispatcher.counts.waiting -= 1\n",
        "            raise\n        except StoreError:\n            case.committed = True\n            return None\n"
        "        except BaseException:\n            self._dispatcher.counts.waiting -= 1\n",
        f"{_S}/test_outages.py::test_without_a_record_there_is_no_effect_and_no_answer",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "            self._keep_trying(case, unit)\n",
        "",
        f"{_S}/test_outages.py::test_an_outcome_that_cannot_be_written_is_in_doubt_and_is_written_later",
    ),
    Mutation(
        f"{_AUDIT}/database.py",
        '"synchronous=FULL"',
        '"synchronous=NORMAL"',
        "tests/audit/test_store.py::test_sqlite_is_durable_and_its_file_is_private",
    ),
    # -- a person at the client -----------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        'if word is not None and hmac.compare_digest(str(word["digest"]), digest):',
        "if word is not None:",
        f"{_S}/test_confirmations.py::test_a_yes_is_for_exactly_what_was_shown",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "return case.proposal.can_ask and case.subject.actor.id in self._interactive",
        "return case.proposal.can_ask",
        f"{_S}/test_confirmations.py::test_a_client_that_would_accept_by_itself_is_not_asked_unless_it_is_interactive",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        'if row is not None and row["state"] != CallState.PENDING:',
        "if False:",
        f"{_S}/test_confirmations.py::test_a_call_that_was_declined_cannot_be_confirmed_afterwards",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "if given.reply is Reply.ACCEPT and given.confirmed:",
        "if given.reply is Reply.ACCEPT:",
        f"{_S}/test_confirmations.py::test_whatever_is_no_yes_does_nothing_and_is_on_record",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "if state.expires_ms <= now:",
        "if False:",
        f"{_S}/test_confirmations.py::test_an_answer_that_comes_too_late_does_nothing",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "(state.tenant, state.principal, state.actor) != mine or",
        "",
        f"{_S}/test_confirmations.py::test_an_answer_is_good_for_its_own_client_and_person_only",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "if case.asks >= ASKS_MAX:",
        "if False:",
        f"{_S}/test_confirmations.py::test_a_record_that_moves_while_the_person_reads_is_shown_once_more_and_then_no_more",
    ),
    Mutation(
        f"{_SERVER}/call/decisions.py",
        " if role != REQUESTER}",
        "}",
        f"{_S}/test_confirmations.py::test_an_approver_cannot_stand_in_for_the_person_at_the_client",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "            ClaimsFree(case.call, case.claims),\n",
        "",
        f"{_S}/test_confirmations.py::test_a_repeat_of_what_was_done_or_waits_asks_nobody",
    ),
    Mutation(
        f"{_SERVER}/face/elicitation.py",
        '.get("confirm") is True)',
        '.get("confirm") not in (None, False))',
        f"{_S}/test_confirmations.py::test_whatever_is_no_yes_does_nothing_and_is_on_record",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "max(now, head.record_ms) if head is not None else now",
        "now",
        f"{_S}/test_confirmations.py::test_a_clock_that_is_set_back_makes_no_late_answer_good_again",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "if state.tells:",
        "if False:",
        f"{_S}/test_confirmations.py::test_a_call_that_was_decided_while_its_person_read_that_goes_on_at_once",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "            if no.code is Code.CONFIRMATION_DECLINED and given.reply is not Reply.CANCEL:\n",
        "            if False:\n",
        f"{_S}/test_confirmations.py::test_a_person_who_said_no_is_not_asked_the_same_again_at_once",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "case.awaited_ms = max(",
        "case.asks = max(",
        f"{_S}/test_confirmations.py::test_the_time_in_which_the_person_is_asked_is_not_the_tasks",
    ),
    Mutation(
        f"{_SERVER}/face/http.py",
        "elif opens_one(framed.message):",
        "elif False:",
        "tests/server/test_elicitation_http.py::test_a_person_confirms_over_http",
    ),
    Mutation(
        f"{_SERVER}/face/stdio.py",
        "            server.stop_asking()\n",
        "",
        "tests/server/test_elicitation_processes.py::"
        "test_a_client_that_ends_its_input_while_asked_gives_no_answer_and_the_server_ends",
    ),
    Mutation(
        f"{_POLICY}/requesters.py",
        "if word not in terms.may and tools:",
        "if False:",
        "tests/policy/test_requesters.py::test_a_clients_word_is_not_enough_for_these_until_the_config_says_so",
    ),
    Mutation(
        f"{_POLICY}/rules.py",
        "all(rule.role == REQUESTER for rule in rules.approval)",
        "not rules.approval",
        "tests/policy/test_requesters.py::test_a_tool_that_nobody_classified_still_needs_an_approver",
    ),
    # -- one call, one outcome ------------------------------------------------------------------------------------
    Mutation(
        f"{_AUDIT}/calls.py",
        'or self.epoch not in (None, row["epoch"])',
        "",
        "tests/audit/test_calls.py::test_recovery_fences_the_old_owner_off",
    ),
    Mutation(
        f"{_AUDIT}/calls.py",
        'if row and row["call"] and row["call"] != self.call:',
        "if False:",
        f"{_S}/test_repeats.py::test_a_create_that_is_done_is_answered_again_and_says_so",
    ),
    Mutation(
        f"{_AUDIT}/calls.py",
        '        if other["state"] in _HOLDS_THE_CLAIM:\n',
        "        if False:\n",
        f"{_S}/test_repeats.py::test_a_call_in_doubt_is_never_tried_again",
    ),
    Mutation(
        f"{_AUDIT}/calls.py",
        'if claim.explicit and row["arguments"] != claim.arguments and _stands(other):',
        "if False:",
        f"{_S}/test_repeats.py::test_an_explicit_key_always_replays_and_other_arguments_conflict",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "replays = tool.effect is Effect.CREATE and not",
        "replays = not",
        f"{_S}/test_repeats.py::test_a_delete_is_never_answered_from_the_record",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "    if outcome.effect is EffectHappened.UNKNOWN:\n        return CallState.IN_DOUBT\n",
        "    if outcome.effect is EffectHappened.UNKNOWN:\n        return CallState.FAILED_BEFORE_EFFECT\n",
        f"{_S}/test_verification.py::test_a_tool_that_raises_leaves_the_call_in_doubt_whatever_it_did",
    ),
    Mutation(
        f"{_SERVER}/pipeline.py",
        "            if not case.committed:\n                raise\n",
        "            raise\n",
        f"{_S}/test_verification.py::test_a_defect_of_ours_after_the_commit_leaves_the_call_in_doubt",
    ),
    Mutation(
        f"{_SERVER}/upkeep/recovery.py",
        "if rule.absent_means is AbsentMeans.NOT_DONE and gone:",
        "if rule.absent_means is AbsentMeans.NOT_DONE:",
        "tests/server/test_recovery.py::test_what_a_living_process_has_in_doubt_is_not_called_undone",
    ),
    Mutation(
        f"{_SERVER}/upkeep/recovery.py",
        'if row["state"] == CallState.COMMITTED and not gone:',
        "if False:",
        "tests/server/test_recovery.py::test_a_call_that_runs_in_another_process_is_left_alone",
    ),
    # -- what is decided is what runs -----------------------------------------------------------------------------
    Mutation(
        f"{_POLICY}/cedar.py",
        "return Answered(decision is cedarpy.Decision.Allow and not errors,",
        "return Answered(decision is cedarpy.Decision.Allow,",
        "tests/policy/test_engine.py::test_a_forbid_that_overflows_denies_instead_of_being_skipped",
    ),
    Mutation(
        f"{_POLICY}/switches.py",
        'return None if state.head.switch_seq == self.switch_seq else Moved("switches")',
        "return None",
        "tests/policy/test_switches.py::test_a_decision_stands_only_while_no_switch_has_moved",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "            HeadUnmoved(case.basis.switch_seq, self._bundle),\n"
        "            HistoryUnmoved(case.basis.history),\n"
        "            self._enter(case, flight=1),\n",
        "            HistoryUnmoved(case.basis.history),\n            self._enter(case, flight=1),\n",
        f"{_S}/test_switches.py::test_a_process_on_a_replaced_policy_refuses_before_and_after_it_notices",
    ),
    Mutation(
        f"{_BUDGETS}/history.py",
        'if (row["revision"] if row else 0) != revision:',
        "if False:",
        f"{_S}/test_budgets.py::test_calls_in_parallel_cannot_all_pass_a_rule_over_history",
    ),
    Mutation(
        f"{_SERVER}/call/lookups.py",
        "if guard is None or counts[guard] == 0:",
        "if True:",
        f"{_S}/test_budgets.py::test_refunds_on_one_invoice_at_once_never_overspend_it_nor_fail_their_check",
    ),
    Mutation(
        f"{_SERVER}/call/decisions.py",
        "        if decision is not None and decision.verdict is Verdict.DENY:\n",
        "        if False:\n",
        f"{_S}/test_look_ups.py::test_a_thousand_denied_proposals_cause_no_look_up",
    ),
    Mutation(
        f"{_SERVER}/call/bounded.py",
        'return Outcome(EffectHappened.UNKNOWN, error=f"the source raised {type(error).__name__}")',
        "raise",
        f"{_S}/test_look_ups.py::test_a_source_that_raises_in_a_look_up_denies",
    ),
    Mutation(
        f"{_SERVER}/call/lookups.py",
        "if not self._allows(service_subject(tenant, tool.config.roles or ()), tool, rendered):",
        "if False:",
        f"{_S}/test_look_ups.py::test_a_look_up_obeys_the_rules_of_the_tool_it_uses",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "if tool is None or not self._bundle.visible(case.subject, name):",
        "if tool is None:",
        f"{_S}/test_calls.py::test_a_hidden_tool_and_a_missing_one_answer_alike",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "            if tool.config.why or tool.needs_citation:\n",
        "            if False:\n",
        f"{_S}/test_calls.py::test_a_side_effect_says_why_or_is_refused",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "            if ref not in found:\n",
        "            if False:\n",
        f"{_S}/test_calls.py::test_a_ref_of_another_task_or_of_nobody_is_stale",
    ),
    # -- approvals ------------------------------------------------------------------------------------------------
    Mutation(
        f"{_POLICY}/approvals.py",
        'if row["approved_digest"] != self.approved_digest or given(row) != dict(self.roles):',
        "if given(row) != dict(self.roles):",
        "tests/policy/test_approvals.py::test_an_approval_is_not_used_for_another_action",
    ),
    Mutation(
        f"{_POLICY}/approvals.py",
        'state.put(APPROVALS, self.approval, {**row, "state": ApprovalState.CONSUMED.value})',
        "state.put(APPROVALS, self.approval, row)",
        "tests/policy/test_approvals.py::test_an_approval_is_used_once",
    ),
    Mutation(
        f"{_POLICY}/approvals.py",
        'if vote["assurance"] == Assurance.CREDENTIAL:',
        "if True:",
        f"{_S}/test_approvals.py::test_what_the_same_user_claims_without_a_credential_opens_no_gate",
    ),
    Mutation(
        f"{_POLICY}/approvals.py",
        'if waiting["pending"] >= self.pending_max:',
        "if False:",
        f"{_S}/test_approvals.py::test_requests_for_people_are_capped_and_a_decision_makes_room",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        '        if {**before, "shown": None} != {**case.bound, "shown": None}:\n',
        "        if False:\n",
        f"{_S}/test_approvals.py::test_a_field_of_the_action_that_changes_after_the_approval_lets_nothing_run",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        '        case.changed = _what_changed(cast("JsonObject", shown.get("facts") or {}), case.facts)\n',
        "",
        f"{_S}/test_approvals.py::"
        "test_a_record_that_changed_while_the_person_read_asks_again_and_says_what_changed",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        '        if approval["expires_ms"] <= self._clock.now_ms():\n',
        "        if False:\n",
        f"{_S}/test_approvals.py::test_an_approval_that_expired_runs_nothing_even_after_a_yes",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        '            or not _belongs(case, row)\n            or row["task"] != case.task.id\n',
        "",
        f"{_S}/test_approvals.py::test_only_the_same_person_client_and_task_may_resume",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        "        row = now  #",
        "        #",
        f"{_S}/test_enemy_races.py::test_a_yes_that_comes_while_a_resume_looks_is_no_forged_one",
    ),
    Mutation(
        f"{_AUDIT}/store.py",
        "        self.connection.execute(self._begin)\n",
        "",
        "tests/audit/test_store.py::test_what_one_commit_changed_is_never_read_in_part",
    ),
    Mutation(
        f"{_BUDGETS}/lifecycle.py",
        'if self.waiting is not None and row["awaiting"] != self.waiting:',
        "if False:",
        f"{_S}/test_enemy_races.py::test_a_call_that_begins_to_wait_while_its_task_is_handed_off_is_closed_with_it",
    ),
    # -- budgets --------------------------------------------------------------------------------------------------
    Mutation(
        f"{_BUDGETS}/tasks.py",
        "        if not self.is_new or state.get(TASKS, self.task) is not None:",
        "        if not self.is_new:",
        "tests/budgets/test_tasks.py::test_a_task_that_was_left_behind_is_not_entered_as_if_it_were_new",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        '        if (now["state"], now["approval"]) != (row["state"], row["approval"]):',
        "        if False:",
        f"{_S}/test_approvals.py::test_a_resume_that_another_overtakes_is_told_of_the_run",
    ),
    Mutation(
        f"{_BUDGETS}/ledger.py",
        'left = most - row["used"] - row["held"]',
        'left = most - row["used"]',
        f"{_S}/test_budgets.py::test_64_callers_on_a_budget_of_ten_make_ten_calls",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "        parts += [TakeHold(case.call, case.charges), BumpHistory(self._history_of(case))]\n",
        "        parts.append(BumpHistory(self._history_of(case)))\n",
        f"{_S}/test_budgets.py::test_a_window_says_when_it_resets_and_does",
    ),
    Mutation(
        f"{_BUDGETS}/tasks.py",
        'if limit is not None and row["active_ms"] > limit * 1000:',
        "if False:",
        f"{_S}/test_budgets.py::test_active_time_is_flight_and_short_gaps_and_stands_still_for_a_person",
    ),
    # -- edits ----------------------------------------------------------------------------------------------------
    Mutation(
        f"{_POLICY}/approvals.py",
        "if not self.vote.yes or not self._is_author(row):",
        "if True:",
        f"{_S}/test_edits.py::test_an_edited_call_runs_as_edited_once_somebody_else_agreed",
    ),
    Mutation(
        f"{_POLICY}/approvals.py",
        'if not (vote.get("author") and wanted.get(role, 1) > 1):',
        "if True:",
        f"{_S}/test_edits.py::test_an_authors_yes_does_not_count_for_a_second_person_who_is_asked_later",
    ),
    Mutation(
        f"{_POLICY}/edits.py",
        'if row["expires_ms"] <= state.now_ms:',
        "if False:",
        f"{_S}/test_edits.py::test_an_edit_revives_nothing_that_has_expired",
    ),
    Mutation(
        f"{_POLICY}/edits.py",
        "if asked_digest(row) != self.seen:",
        "if False:",
        f"{_S}/test_edits.py::test_who_looked_at_something_else_edits_nothing",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "            self._terms.request(case, approval, roles),\n            SwapClaims",
        '            self._terms.request(case, approval, roles, case.resumed.approval["votes"]),\n            SwapClaims',
        f"{_S}/test_edits.py::test_an_edit_takes_back_every_yes_that_was_given_before",
    ),
    Mutation(
        f"{_AUDIT}/calls.py",
        "if (stop := TakeClaims(self.call, self.taken).apply(state)) is not None:",
        "if (stop := None) is not None:",
        f"{_S}/test_edits.py::test_an_edit_does_not_make_two_calls_of_one_action",
    ),
    Mutation(
        f"{_SERVER}/people/editing.py",
        "        self._intake.refit(case)\n",
        "",
        f"{_S}/test_edits.py::"
        "test_what_a_proposal_could_not_ask_for_an_edit_cannot_either_and_the_call_waits_as_it_was",
    ),
    Mutation(
        f"{_SERVER}/people/editing.py",
        "        self._decisions.before(case)\n",
        "",
        f"{_S}/test_edits.py::test_an_edit_is_decided_with_the_record_as_it_is_looked_up_now",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "        self.citations.still_enough(case)\n",
        "",
        f"{_S}/test_edits.py::test_an_edit_to_another_record_needs_the_citations_of_that_record",
    ),
    Mutation(
        f"{_SERVER}/call/stored.py",
        "authors == authors_of(approval)",
        "True",
        f"{_S}/test_edits.py::test_whoever_can_write_the_table_alone_gets_no_edited_call_through",
    ),
    Mutation(
        f"{_SERVER}/commands/editing.py",
        "if not voter.counts:",
        "if False:",
        "tests/server/test_edit_command.py::test_a_credential_file_of_the_servers_own_user_edits_nothing",
    ),
    Mutation(
        f"{_SERVER}/commands/requests.py",
        "if request.digest.startswith(wanted):",
        "if True:",
        "tests/server/test_edit_command.py::test_a_script_names_what_it_agrees_to_or_says_that_it_does_not_look",
    ),
    Mutation(
        f"{_POLICY}/rollout_changes.py",
        '"edited": row["edited"] + 1, "unedited": 0',
        '"edited": row["edited"] + 1',
        f"{_S}/test_edits.py::test_approvals_that_changed_nothing_are_counted_until_one_is_edited_or_denied",
    ),
    Mutation(
        f"{_POLICY}/rollout_changes.py",
        'if (short := unedited - row["unedited"]) > 0:',
        "if (short := 0) > 0:",
        "tests/server/test_rollout_command.py::test_a_promotion_may_ask_for_approvals_that_changed_nothing",
    ),
    Mutation(
        f"{_POLICY}/approvals.py",
        'if not row["edited_digest"]:',
        "if True:",
        f"{_S}/test_edits.py::test_approvals_that_changed_nothing_are_counted_until_one_is_edited_or_denied",
    ),
    Mutation(
        f"{_SERVER}/call/edits.py",
        "changes(road.release(before, audience, book).value, road.release(now, audience, book).value)",
        "changes(before, now)",
        f"{_S}/test_edits.py::test_the_agent_is_told_of_an_edit_no_more_than_it_may_read",
    ),
    # -- the page of a call ---------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/face/decide_page.py",
        "if call == path or is_our_id(call) is None:",
        "if call == path:",
        "tests/server/test_decide_page.py::test_what_is_no_id_of_a_call_has_no_page",
    ),
    Mutation(
        f"{_SERVER}/face/http.py",
        'if method not in ("GET", "HEAD"):\n        return _plain(405, "Use GET; nothing',
        'if method == "":\n        return _plain(405, "Use GET; nothing',
        "tests/server/test_decide_page.py::test_nothing_can_be_sent_to_the_page",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "may = self._may_tell(case, state.call) if state.tells else self._may_ask(case)",
        "may = True",
        "tests/server/test_decide_page.py::test_a_client_that_only_opens_pages_is_told_too_where_there_is_one",
    ),
    Mutation(
        f"{_SERVER}/people/confirmations.py",
        "return self._may_ask(case) or (opens and case.subject.actor.id in self._interactive)",
        "return self._may_ask(case) or opens",
        "tests/server/test_decide_page.py::test_a_client_nobody_sits_at_is_sent_nowhere",
    ),
    Mutation(
        f"{_SERVER}/config/web.py",
        "or parsed.userinfo or",
        "or",
        "tests/server/test_decide_page.py::test_a_public_url_that_people_should_not_be_sent_to_does_not_load",
    ),
    # -- rollout -------------------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/people/canary.py",
        "        wanted = (tool.source.name.encode(), record.kind.encode(), record.key.encode())\n",
        "        wanted = (case.task.id.encode(),)\n",
        f"{_S}/test_rollout.py::test_other_principals_amounts_and_tasks_change_nothing_about_the_draw",
    ),
    Mutation(
        f"{_SERVER}/people/canary.py",
        "        return named == {record.key}, DrawnBy.RECORD, wanted\n",
        "        return True, DrawnBy.RECORD, wanted\n",
        f"{_S}/test_rollout.py::test_a_look_up_that_names_another_record_keeps_the_call_out",
    ),
    Mutation(
        f"{_SERVER}/people/canary.py",
        "    if case.resumed is not None:\n",
        "    if False:\n",
        f"{_S}/test_rollout.py::test_a_record_in_the_canary_goes_without_a_person_and_the_packet_says_why",
    ),
    Mutation(
        f"{_SERVER}/people/canary.py",
        "    if not is_reversible(tool.config):\n",
        "    if False:\n",
        f"{_S}/test_rollout.py::test_what_cannot_be_reversed_is_in_no_canary",
    ),
    Mutation(
        f"{_SERVER}/people/canary.py",
        "canary=not action or is_canary(action)",
        "canary=False",
        f"{_S}/test_rollout.py::test_a_canary_call_whose_process_died_ends_the_canary_when_it_is_found_in_doubt",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "        parts += share_kept(case)\n",
        "",
        f"{_S}/test_rollout.py::test_the_canary_fills_half_a_window_and_not_a_cent_more",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "                *case_ended(self._rollout, case),\n",
        "",
        f"{_S}/test_rollout.py::test_evidence_of_several_processes_is_counted_exactly",
    ),
    Mutation(
        f"{_SERVER}/call/decisions.py",
        "            and case.draw.standing is Standing.IN\n",
        "            and False\n",
        f"{_S}/test_rollout.py::test_what_another_gate_asks_about_is_in_no_canary",
    ),
    Mutation(
        f"{_SERVER}/call/watch.py",
        "            return head, Switches.read(reader, tenant), read_levels(reader, tenant, key)\n",
        "            return head, Switches.read(reader, tenant), self._rollouts.get(tenant) or {}\n",
        f"{_S}/test_rollout.py::test_a_demotion_by_one_process_is_obeyed_by_another_on_its_next_commit",
    ),
    Mutation(
        f"{_POLICY}/rollout.py",
        "    if level.word is Word.DEMOTED:\n        return 0\n",
        "",
        f"{_S}/test_rollout.py::test_a_demoted_tool_stays_demoted_whatever_the_config_says_later",
    ),
    Mutation(
        f"{_POLICY}/rollout.py",
        "min(configured, level.percent) if configured",
        "level.percent if configured",
        f"{_S}/test_rollout.py::test_a_promotion_ends_when_the_config_it_was_made_under_is_lowered",
    ),
    Mutation(
        f"{_POLICY}/rollout.py",
        'return level if hmac.compare_digest(expected, row["proof"]) else',
        "return level if expected else",
        f"{_S}/test_rollout.py::test_whoever_writes_the_table_without_the_keys_promotes_nothing",
    ),
    Mutation(
        f"{_POLICY}/rollout_changes.py",
        "        if breach is not None and _row",
        "        if False and _row",
        f"{_S}/test_rollout.py::test_a_silent_wrong_outcome_ends_the_canary_in_its_own_commit",
    ),
    Mutation(
        f"{_POLICY}/rollout_changes.py",
        "else configured\n    state.head.switch_seq += 1\n",
        "else configured\n",
        f"{_S}/test_rollout.py::test_a_demotion_between_decision_and_commit_stops_the_call",
    ),
    Mutation(
        f"{_POLICY}/rollout_changes.py",
        '{"denied": row["denied"] + 1, "clean": 0, "unedited": 0}',
        '{"denied": row["denied"] + 1}',
        f"{_S}/test_rollout.py::test_only_verified_calls_count_as_clean_and_a_no_begins_anew",
    ),
    Mutation(
        f"{_POLICY}/rollout_changes.py",
        '    if (short := needed - row["clean"]) > 0:\n',
        '    if (short := needed - row["clean"]) > needed:\n',
        "tests/server/test_rollout_command.py::test_a_no_or_a_wrong_outcome_among_the_calls_is_named_and_begins_the_count_anew",
    ),
    Mutation(
        f"{_POLICY}/rollout_changes.py",
        "    if to is not None and to > step:\n",
        "    if False:\n",
        "tests/server/test_rollout_command.py::test_a_tool_goes_up_step_by_step_on_evidence_until_nobody_is_asked",
    ),
    Mutation(
        f"{_SERVER}/commands/rollout.py",
        "        if not voter.counts or APPROVER not in voter.roles:\n",
        "        if not voter.counts:\n",
        "tests/server/test_rollout_command.py::test_only_an_approver_with_a_credential_promotes",
    ),
    Mutation(
        f"{_SERVER}/commands/rollout.py",
        "        if not voter.counts or APPROVER not in voter.roles:\n",
        "        if APPROVER not in voter.roles:\n",
        "tests/server/test_rollout_command.py::test_a_credential_that_the_agent_can_read_promotes_nothing",
    ),
    Mutation(
        f"{_SERVER}/commands/switches.py",
        "            if not voter.counts:\n",
        "            if False:\n",
        "tests/server/test_cli.py::test_a_halt_is_lifted_by_an_approver_only",
    ),
    Mutation(
        f"{_POLICY}/approvers.py",
        "if not self.added_by and state.head.size + len(state.records) != self.log_size:",
        "if False:",
        "tests/policy/test_approvers.py::test_of_two_who_found_nobody_enrolled_one_becomes_the_first",
    ),
    Mutation(
        f"{_SERVER}/call/decisions.py",
        "if outcome.effect is EffectHappened.NONE and not case.tool_in_hand.is_read:",
        "if outcome.effect is EffectHappened.NONE:",
        f"{_S}/test_verification.py::test_a_rule_after_a_read_keeps_the_record_back",
    ),
    # -- switches and dispatch ------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/dispatch.py",
        "        refusal = self._switches(case.tenant).stops(case.tool_in_hand.name, *case.stopped_by)\n",
        "        refusal = None\n",
        f"{_S}/test_switches.py::test_a_switch_between_commit_and_dispatch_keeps_the_effect_from_happening",
    ),
    Mutation(
        f"{_SERVER}/call/dispatch.py",
        "if refusal is None and not self._owner.held():",
        "if False:",
        "tests/server/test_recovery.py::test_a_process_that_lost_its_lease_does_not_dispatch",
    ),
    Mutation(
        f"{_SERVER}/call/dispatch.py",
        "if refusal is None and self._clock.monotonic() >= case.deadline:",
        "if False:",
        "tests/server/test_pipeline.py::test_a_call_whose_time_is_over_before_it_starts_is_not_dispatched",
    ),
    Mutation(
        f"{_SERVER}/call/lookups.py",
        "if switch_id(SwitchScope.TOOL, tool.name) in self._switches(tenant).active:",
        "if False:",
        f"{_S}/test_switches.py::test_a_tool_that_is_halted_is_not_looked_up_with_either",
    ),
    # -- what comes back ------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "        if tool.output is not None and (problems := tool.output.check(outcome.value)):\n",
        "        if False:\n            problems = []\n",
        "tests/server/test_pipeline.py::test_a_result_that_breaks_its_schema_is_withheld",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "        if len(output) > tool.config.limits.response_kib_max * 1024:\n",
        "        if False:\n",
        f"{_S}/test_verification.py::test_a_flood_is_withheld_and_a_change_that_came_with_it_is_handed_over",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "if case.verification.result is Verification.DIFFERS and outcome.effect is EffectHappened.DONE:",
        "if False:",
        f"{_S}/test_verification.py::test_a_refund_whose_read_back_differs_is_handed_to_a_person",
    ),
    Mutation(
        f"{_SERVER}/pipeline.py",
        "            self._decisions.after(case)  # 12 decide\n",
        "",
        f"{_S}/test_verification.py::"
        "test_a_rule_after_the_call_stops_the_answer_and_says_that_the_change_was_made",
    ),
    # -- secrets --------------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "shown = kept = road.release(value, Audience.MODEL, case.book)",
        "shown = kept = type(road.release(None, Audience.MODEL))(value, 0)",
        f"{_S}/test_secrets.py::test_a_secret_in_a_result_is_withheld_everywhere",
    ),
    Mutation(
        f"{_AUDIT}/known_secrets.py",
        "plain |= dict.fromkeys(forms)",
        "plain |= {}",
        f"{_S}/test_secrets.py::test_a_secret_in_a_result_is_withheld_everywhere",
    ),
    Mutation(
        f"{_SERVER}/call/dispatch.py",
        "            text = self._release.text(message, Audience.MODEL, case.book) if message is not None else None\n",
        "            text = message\n",
        f"{_S}/test_secrets.py::test_a_secret_in_progress_is_withheld",
    ),
    # -- floods and bytes -----------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/intake.py",
        "        if (refusal := self.quotas.check(case.principal_key)) is not None:\n",
        "        if (refusal := self.quotas.check(case.principal_key)) is not None and False:\n",
        f"{_S}/test_floods.py::test_a_principal_that_gets_nowhere_is_stopped_at_once_whatever_it_tries",
    ),
    Mutation(
        f"{_SERVER}/face/framing.py",
        "    if len(members) != len(pairs):\n",
        "    if False:\n",
        "tests/server/test_framing.py::test_a_message_with_two_readings_or_none_is_refused",
    ),
    Mutation(
        f"{_SERVER}/face/protocol.py",
        "        await ended  # being cancelled here leaves the task alone\n",
        "        await task\n",
        f"{_S}/test_clients.py::test_a_call_whose_client_goes_away_is_finished_and_recorded",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "            case.receipt = outcome.receipts[-1]\n            return\n",
        "            return\n",
        "tests/server/test_pipeline.py::test_every_answer_names_its_record_and_the_log_holds_it",
    ),
    # -- citations ------------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/intake.py",
        "            if tool.config.why or tool.needs_citation:\n",
        "            if tool.config.why:\n",
        f"{_S}/test_citations.py::test_a_tool_that_needs_no_why_needs_one_where_citations_are_demanded",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "            case.uncited = None\n            await self.citations.read(case)\n",
        "            pass\n",
        f"{_S}/test_citations.py::test_a_ref_does_not_follow_its_call_into_a_task_that_began_meanwhile",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        'read = [citation for citation in case.citations if not citation["listed"]]',
        "read = case.citations",
        f"{_S}/test_citations.py::test_lines_of_a_list_do_not_count",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "if case.record is not None and not any(",
        "if case.record is not None and False and not any(",
        f"{_S}/test_citations.py::test_a_tool_that_cites_needs_a_ref_of_each_kind_and_of_the_record_it_acts_on",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "age_ms <= fresh_ms:",
        "age_ms <= fresh_ms + 1:",
        f"{_S}/test_citations.py::test_a_ref_can_be_cited_to_the_last_millisecond_of_its_freshness",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "max(self._clock.now_ms(), newest_ms)",
        "self._clock.now_ms()",
        f"{_S}/test_citations.py::test_a_clock_set_back_makes_no_ref_young_again",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "        if tool is not None and self._terms.may_cite(tool.source.name):\n",
        "        if tool is not None:\n",
        f"{_S}/test_citations.py::test_only_reads_of_the_listed_sources_can_be_cited",
    ),
    Mutation(
        f"{_SERVER}/pipeline.py",
        "            await self._intake.citations.compare(case)\n",
        "",
        f"{_S}/test_citations.py::test_a_record_that_changed_since_it_was_read_is_stale_and_the_text_says_how",
    ),
    Mutation(
        f"{_SERVER}/call/lookups.py",
        " | self._facts_cited(case, tool)",
        "",
        f"{_S}/test_citations.py::test_two_tools_that_show_one_record_are_compared_by_its_declared_version",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "        if not case.may_tell_facts():\n",
        "        if False:\n",
        f"{_S}/test_citations.py::test_what_changed_is_told_only_to_those_who_may_read_the_fact",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "return [Refuse(case.uncited)] if case.uncited is not None and case.resumed is None else []",
        "return []",
        f"{_S}/test_citations.py::test_a_repeat_that_would_run_again_is_a_new_call_and_needs_citations_that_hold",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        '        if not any(row["call"] for row in rows.values()):\n',
        "        if True:\n",
        f"{_S}/test_citations.py::test_a_repeat_gets_its_calls_answer_whatever_it_cites_by_now",
    ),
    Mutation(
        f"{_SERVER}/call/citations.py",
        "        if case.resumed is not None or tool.is_read:\n",
        "        if tool.is_read:\n",
        f"{_S}/test_citations.py::test_a_person_may_take_an_hour_and_only_a_changed_record_asks_again",
    ),
    Mutation(
        "tools/comptroller_tools/records.py",
        "            if seen == plain:\n",
        "            if True:\n",
        f"{_S}/test_citations.py::test_a_record_whose_key_is_withheld_gives_no_ref",
    ),
    Mutation(
        f"{_AUDIT}/linear.py",
        "self._compiled.fullmatch(text)",
        "self._compiled.search(text)",
        "tests/policy/test_rules.py::test_a_pattern_holds_for_the_whole_text_and_for_every_item_of_a_list",
    ),
    Mutation(
        f"{_POLICY}/rules.py",
        'if choices is None and argument.name.endswith("_code"):',
        "if False:",
        "tests/policy/test_rules.py::test_a_required_code_of_any_text_is_a_finding_unless_its_values_are_listed",
    ),
    Mutation(
        f"{_POLICY}/rules.py",
        "if (fault := pattern_fault(pattern)) is not None:",
        "if False and (fault := pattern_fault(pattern)) is not None:",
        "tests/policy/test_rules.py::test_a_constraint_that_cannot_hold_is_a_finding_at_its_place",
    ),
    # -- what an enemy tried --------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/pipeline.py",
        "max(case.received_ms, head.record_ms)",
        "case.received_ms",
        f"{_S}/test_enemy_world.py::test_a_clock_set_back_makes_no_rule_over_history_forget",
    ),
    # -- the first hour --------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/setting_up/placing.py",
        "    if there and not force:\n",
        "    if False:\n",
        "tests/server/test_init_command.py::test_what_is_there_stays_unless_it_is_forced",
    ),
    Mutation(
        f"{_SERVER}/setting_up/answers.py",
        "    if any(Release((), (CREDENTIALS,)).secrets_in(word) for word in words):\n",
        "    if False:\n",
        "tests/server/test_init_command.py::test_what_cannot_be_used_is_refused_before_anything_is_written",
    ),
    Mutation(
        f"{_SERVER}/commands/init.py",
        "        if store.exists() and not force:\n",
        "        if False:\n",
        "tests/server/test_init_command.py::test_a_store_of_that_name_is_gone_on_with_only_when_forced",
    ),
    Mutation(
        f"{_SERVER}/setting_up/documents.py",
        '        return [*lines, "    approval: [{role: approver}]           # a person agrees to each call"]\n',
        "        return lines\n",
        "tests/server/test_init_command.py::test_functions_are_listed_with_what_their_names_say_and_money_is_limited",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "charges_for(limits, amounts, scopes, case.window_ms)",
        "charges_for(limits, amounts, scopes, self._clock.now_ms())",
        f"{_S}/test_enemy_world.py::test_a_clock_set_back_into_an_earlier_window_spends_no_budget_twice",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        'if packet["call"] != call or not proved(approval, logged):',
        "if False:",
        f"{_S}/test_enemy_world.py::test_an_approval_written_into_the_table_opens_no_gate",
    ),
    Mutation(
        f"{_SERVER}/call/stored.py",
        '        and digests.get(e.packet["approval"]) == asked\n',
        "",
        f"{_S}/test_enemy_world.py::test_the_votes_for_an_earlier_state_of_the_record_open_no_gate",
    ),
    Mutation(
        f"{_SERVER}/upkeep/checkpoints.py",
        "if signed is not None and (signed.size > size",
        "if signed is not None and (False",
        f"{_S}/test_enemy_world.py::test_a_store_older_than_its_newest_checkpoint_is_not_served",
    ),
    Mutation(
        f"{_SERVER}/call/decisions.py",
        "            if not case.may_tell_facts():\n",
        "            if False:\n",
        f"{_S}/test_enemy_agent.py::test_a_refusal_by_facts_the_caller_may_not_read_says_nothing_of_them",
    ),
    Mutation(
        f"{_SERVER}/undo/reversal.py",
        "    if not case.may_tell_facts():\n",
        "    if False:\n",
        f"{_S}/test_enemy_agent.py::test_a_read_back_the_caller_may_not_read_is_not_quoted_to_it",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        'row["effect"] != Effect.READ and ',
        "",
        f"{_S}/test_enemy_agent.py::test_a_read_cannot_be_had_again_through_resume_call",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        "        if stop is not None:\n            raise Refused(stop)\n",
        "",
        f"{_S}/test_enemy_agent.py::test_a_halted_tool_gives_nothing_through_resume_call",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "        _check_meta(case.proposal)\n",
        "",
        f"{_S}/test_enemy_agent.py::test_a_meta_key_of_ours_that_is_not_understood_is_never_passed_over",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "if why is not None and beside is not None and why != beside:",
        "if False:",
        f"{_S}/test_enemy_agent.py::test_two_reasons_that_disagree_are_refused",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "if left_out else given",
        "if False else given",
        f"{_S}/test_enemy_agent.py::test_a_default_that_is_spelled_out_makes_no_other_action",
    ),
    Mutation(
        f"{_SERVER}/call/evidence.py",
        "if len(spelled) <= REFUSED_BYTES_MAX:",
        "if True:",
        f"{_S}/test_enemy_agent.py::test_refusals_of_huge_proposals_do_not_fill_the_disk",
    ),
    Mutation(
        f"{_AUDIT}/calls.py",
        "(self.always or row",
        "(row",
        f"{_S}/test_enemy_agent.py::test_repeats_cannot_push_a_vote_out_of_the_calls_record",
    ),
    Mutation(
        f"{_SERVER}/face/http.py",
        "if headers.has_strange():",
        "if False:",
        f"{_S}/test_enemy_outside.py::test_a_header_of_ours_that_is_not_understood_is_never_passed_over",
    ),
    Mutation(
        f"{_POLICY}/approvals.py",
        "decidable = {ApprovalState.PENDING.value} if self.vote.yes else OPEN",
        "decidable = {ApprovalState.PENDING.value}",
        f"{_S}/test_enemy_agent.py::test_a_yes_can_be_taken_back_until_it_is_used",
    ),
    # -- checks of the operator's own ---------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/pipeline.py",
        "            await self._checking.before(case)  # checks of the operator's own, which can only refuse\n",
        "",
        f"{_S}/test_checks.py::test_a_check_that_says_no_stops_the_call_before_anything_is_done",
    ),
    Mutation(
        f"{_SERVER}/pipeline.py",
        "            await self._checking.after(case)\n",
        "",
        f"{_S}/test_checks.py::test_a_change_that_a_check_finds_wrong_is_handed_over",
    ),
    Mutation(
        f"{_SERVER}/pipeline.py",
        "    return case.checks_deny or (",
        "    return (",
        f"{_S}/test_checks.py::test_an_approved_call_is_checked_again_and_a_no_ends_it",
    ),
    Mutation(
        f"{_SERVER}/checks/checking.py",
        "            if not checked.passed:\n",
        "            if checked.verdict == 'failed':\n",
        f"{_S}/test_checks.py::test_a_check_that_does_anything_but_pass_stops_the_call",
    ),
    Mutation(
        f"{_SERVER}/checks/checking.py",
        "        if check.rule.facts and not case.may_tell_facts():\n",
        "        if False:\n",
        f"{_S}/test_checks.py::test_a_fact_that_only_a_check_reads_is_looked_up_for_it_and_decides_quietly_for_a_stranger",
    ),
    Mutation(
        f"{_SERVER}/checks/checking.py",
        "        if unread:\n",
        "        if False:\n",
        f"{_S}/test_checks.py::test_a_check_without_the_record_it_needs_cannot_tell",
    ),
    Mutation(
        f"{_SERVER}/checks/checking.py",
        '    "unknown": Verification.UNKNOWN,\n',
        '    "unknown": Verification.MATCHED,\n',
        f"{_S}/test_checks.py::test_a_check_that_cannot_tell_leaves_the_call_in_doubt",
    ),
    Mutation(
        f"{_SERVER}/checks/checking.py",
        "self._release.text(checked.reason, Audience.MODEL)",
        "checked.reason",
        f"{_S}/test_checks.py::test_a_secret_that_a_check_says_is_withheld_before_it_is_quoted",
    ),
    Mutation(
        f"{_SERVER}/call/lookups.py",
        "counted = dict.fromkeys((*reads.history, *needs.history))",
        "counted = dict.fromkeys(reads.history)",
        f"{_S}/test_checks.py::test_a_check_sees_citations_and_history_of_the_call",
    ),
    Mutation(
        "tools/comptroller_tools/check_running.py",
        "    if isinstance(returned, Passed):\n",
        "    if returned:\n        return Passed()\n    if isinstance(returned, Passed):\n",
        f"{_S}/test_checks.py::test_a_check_that_does_anything_but_pass_stops_the_call",
    ),
    Mutation(
        "tools/comptroller_tools/check_loading.py",
        "            if (problem := _path_problem(path, rule, schemas))\n",
        "            if (problem := _path_problem(path, rule, schemas)) and False\n",
        f"{_S}/test_checks.py::test_a_check_that_could_not_run_as_written_is_found_at_load",
    ),
    Mutation(
        f"{_SERVER}/installation.py",
        "        code = self.checks.code.encode()\n",
        '        code = b""\n',
        f"{_S}/test_checks.py::test_other_code_of_a_check_is_another_bundle",
    ),
    Mutation(
        "tools/comptroller_tools/checks_records.py",
        "    if wanted in cited:\n",
        "    if cited:\n",
        "tests/tools/test_ready_checks.py::test_a_refund_on_another_invoice_than_the_one_that_was_read_is_stopped",
    ),
    Mutation(
        "tools/comptroller_tools/checks_totals.py",
        "    if total <= limit:\n",
        "    if total > 0:\n",
        "tests/tools/test_ready_checks.py::test_refunds_beyond_what_was_paid_are_stopped",
    ),
    Mutation(
        "tools/comptroller_tools/checks_wording.py",
        "    if not any(wanted.values()):\n",
        "    if False:\n",
        "tests/tools/test_ready_checks.py::test_a_policy_page_that_bars_nothing_lets_nothing_through",
    ),
    Mutation(
        "tools/comptroller_tools/checks_changes.py",
        " if beyond else Passed()\n",
        " if not changed else Passed()\n",
        "tests/tools/test_ready_checks.py::test_a_refund_that_changes_more_than_the_refund_is_handed_over",
    ),
    # -- resilience -----------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/dispatch.py",
        '    return outcome.effect is EffectHappened.NONE and bool(outcome.meta.get("temporary"))',
        "    return True",
        f"{_S}/test_resilience.py::test_what_may_have_happened_or_was_refused_for_good_is_never_tried_again",
    ),
    Mutation(
        f"{_SERVER}/call/loops.py",
        "        if looper is None or same is None or same.times < self._most:",
        "        if True:",
        f"{_S}/test_resilience.py::test_the_same_read_with_the_same_result_is_refused_the_fourth_time",
    ),
    Mutation(
        f"{_SERVER}/call/breakers.py",
        "        if self.failures >= self.config.failures:",
        "        if False:",
        f"{_S}/test_resilience.py::test_a_source_that_keeps_failing_is_left_alone_and_tried_once_after_a_while",
    ),
    # -- the narrow judge -----------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/checks/checking.py",
        "        await self._judging.ask(case)\n",
        "",
        f"{_S}/test_judges.py::test_any_other_of_its_words_refuses",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "            if not judged.is_allowed:\n",
        "            if judged.answer is not None and not judged.is_allowed:\n",
        f"{_S}/test_judges.py::test_what_is_none_of_its_words_refuses",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "            answer in judge.config.allow,\n",
        "            answer in judge.config.answers,\n",
        f"{_S}/test_judges.py::test_any_other_of_its_words_refuses",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        '"facts": self._release.facts(tool, case.facts, Audience.MODEL),',
        '"facts": case.facts,',
        f"{_S}/test_judges.py::test_what_is_judged_is_redacted_before_it_leaves",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "nonce = self._ids.random_bytes(NONCE_BYTES).hex()",
        'nonce = "5f2a9c0d5f2a9c0d5f2a9c0d5f2a9c0d"',
        f"{_S}/test_judges.py::test_text_that_orders_the_judge_to_allow_stays_inside_the_fence",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "                case.checks_deny = judged.answer is not None\n",
        "",
        f"{_S}/test_judges.py::test_an_approved_call_is_judged_again_and_a_no_ends_it",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "        if self._asked >= AT_ONCE_MAX:\n",
        "        if False:\n",
        f"{_S}/test_judges.py::test_too_many_questions_at_once_are_refused_and_not_queued",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "        if len(body) > PROMPT_BYTES_MAX:\n",
        "        if False:\n",
        f"{_S}/test_judges.py::test_more_than_a_judge_can_read_refuses_without_asking",
    ),
    Mutation(
        f"{_SERVER}/checks/judge_prompt.py",
        "if unicodedata.category(c) in _HIDDEN else c",
        "if False else c",
        "tests/server/test_judge_prompt.py::test_no_value_makes_a_line_of_its_own_even_one_that_knows_the_nonce",
    ),
    Mutation(
        f"{_SERVER}/checks/judge_prompt.py",
        "object_pairs_hook=tuple",
        "object_pairs_hook=lambda pairs: tuple(dict(pairs).items())",
        f"{_S}/test_judges.py::test_what_is_none_of_its_words_refuses",
    ),
    Mutation(
        f"{_SERVER}/checks/judge_client.py",
        "follow_redirects=False",
        "follow_redirects=True",
        f"{_S}/test_judges.py::test_a_redirect_is_not_followed",
    ),
    Mutation(
        f"{_SERVER}/checks/judge_client.py",
        "trust_env=False",
        "trust_env=True",
        f"{_S}/test_judges.py::test_a_proxy_of_the_environment_does_not_see_what_is_judged",
    ),
    Mutation(
        f"{_SERVER}/checks/judge_client.py",
        "            if response.status_code != HTTPStatus.OK:\n",
        "            if False:\n",
        f"{_S}/test_judges.py::test_a_broken_answer_refuses",
    ),
    Mutation(
        f"{_SERVER}/checks/judge_client.py",
        "                if len(received) > RESPONSE_BYTES_MAX:\n",
        "                if False:\n",
        f"{_S}/test_judges.py::test_an_answer_that_does_not_end_is_cut_off",
    ),
    Mutation(
        f"{_SERVER}/config/web.py",
        'if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):',
        "if False:",
        f"{_S}/test_judges.py::test_a_judge_that_could_not_be_asked_as_written_is_found_at_load",
    ),
    Mutation(
        f"{_SERVER}/config/loading.py",
        "        secrets=(*secrets, *key_secrets, *upstream_secrets, *fixed_values),\n",
        "        secrets=(*secrets, *upstream_secrets, *fixed_values),\n",
        f"{_S}/test_judges.py::test_the_key_is_in_no_answer_and_no_record",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "            case.usage.judged = added(case.usage.judged, {judge.model: tokens})\n",
        "",
        f"{_S}/test_judges.py::test_what_a_judge_used_is_charged_to_the_task_and_priced",
    ),
    Mutation(
        f"{_SERVER}/call/metering.py",
        "        rest = Metered(own, NO_TOKENS if usage.reports else own, judged=usage.judged)\n",
        "        rest = Metered(own, NO_TOKENS if usage.reports else own)\n",
        f"{_S}/test_judges.py::test_a_judge_that_refuses_is_charged_with_the_tasks_next_call",
    ),
    Mutation(
        f"{_SERVER}/checks/judge.py",
        "            if spent is not None:\n",
        "            if False:\n",
        f"{_S}/test_judges.py::test_a_judge_is_not_asked_once_the_tokens_are_used_up",
    ),
    # -- retention ------------------------------------------------------------------------------------------------
    Mutation(
        f"{_AUDIT}/retention.py",
        "        if int(index) not in kept and ",
        "        if ",
        "tests/audit/test_retention.py::test_calls_that_are_not_over_keep_their_payloads",
    ),
    Mutation(
        f"{_AUDIT}/database.py",
        '            "secure_delete=ON",',
        '            "secure_delete=OFF",',
        "tests/audit/test_retention.py::test_an_erased_payload_is_in_no_page_of_the_files",
    ),
    Mutation(
        f"{_SERVER}/upkeep/retention.py",
        '        if row is not None and now - row["trusted_ms"] > self._jump_ms:',
        "        if False:",
        "tests/audit/test_retention.py::test_a_clock_that_jumped_ahead_erases_nothing_until_a_person_accepts_it",
    ),
    Mutation(
        f"{_AUDIT}/rebuild.py",
        "        for first, last in _subtract(missing, erased):",
        "        for first, last in []:",
        "tests/audit/test_retention.py::test_a_payload_that_goes_without_an_erasure_entry_is_found",
    ),
    # -- answers of policy that are remembered -----------------------------------------------------------------------
    Mutation(
        "policy/comptroller_policy/slices.py",
        'resource["id"] if self.reads_resource else ""',
        '""',
        "tests/policy/test_engine.py::test_the_answer_about_one_record_is_no_other_records",
    ),
    Mutation(
        "policy/comptroller_policy/slices.py",
        "            subject.roles,\n",
        "",
        "tests/policy/test_engine.py::test_the_answer_to_one_person_is_nobody_elses",
    ),
    # -- units of work --------------------------------------------------------------------------------------------
    Mutation(
        "audit/comptroller_audit/unit.py",
        "            if row is _UNREAD:\n",
        "            if False:\n",
        "tests/audit/test_unit.py::test_a_refused_unit_leaves_every_row_as_the_units_before_it_did",
    ),
    # -- personal data --------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/lookups.py",
        "        value = self._release.release(outcome.value, Audience.RECORD).value\n",
        "        value = outcome.value\n",
        f"{_S}/test_look_ups.py::test_a_secret_that_a_look_up_reads_reaches_no_packet",
    ),
    Mutation(
        "audit/comptroller_audit/credentials.py",
        "any_of(_KEY, _URL_PASSWORD, _AUTHORIZATION, _ASSIGNED)",
        "any_of(_KEY, _URL_PASSWORD, _ASSIGNED)",
        "tests/audit/test_redaction_corpus.py::test_a_first_look_over_a_short_text_misses_nothing_that_the_search_finds",
    ),
    Mutation(
        f"{_SERVER}/call/outcomes.py",
        "        road = self._release.output(case.tool_in_hand.name)\n",
        "        road = type(self._release.output(case.tool_in_hand.name))()\n",
        f"{_S}/test_redaction.py::test_a_model_reads_a_token_and_a_reply_goes_to_the_address_behind_it",
    ),
    Mutation(
        f"{_SERVER}/call/books.py",
        "        if resolved.unresolved:\n",
        "        if False:\n",
        f"{_S}/test_redaction.py::test_tokens_mean_nothing_elsewhere",
    ),
    Mutation(
        f"{_SERVER}/call/books.py",
        "        if resolved.unresolved and not case.task.is_new:  # another process may have given them\n",
        "        if False:\n",
        f"{_S}/test_redaction.py::test_another_process_and_one_started_again_know_the_tokens_of_a_task",
    ),
    Mutation(
        f"{_SERVER}/call/books.py",
        "        if case.tokens_used:\n",
        "        if False:\n",
        f"{_S}/test_redaction.py::test_a_call_whose_task_ends_before_it_is_committed_sends_no_value_of_that_task",
    ),
    Mutation(
        f"{_SERVER}/call/books.py",
        "            if not task.is_new:\n",
        "            if False:\n",
        f"{_S}/test_redaction.py::test_a_process_that_starts_in_the_middle_of_a_task_counts_on",
    ),
    Mutation(
        f"{_SERVER}/commands/released.py",
        "        return [packets.entry(entry, book) for entry in logged]\n",
        "        return [*logged] if packets else []\n",
        f"{_S}/test_redaction.py::test_an_approver_reads_the_tokens_the_agent_read_and_the_stored_call_runs_with_the_values",
    ),
    Mutation(
        "tools/comptroller_tools/redactions.py",
        "    problems += _hidden_ids(config, marked)\n",
        "",
        "tests/tools/test_redactions.py::test_an_id_that_would_be_withheld_is_a_finding",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "        if found and tool.is_outbound:\n",
        "        if False:\n",
        f"{_S}/test_redaction.py::test_credentials_are_kept_out_of_what_is_sent_and_of_what_is_shown_unless_the_config_says_so",
    ),
    Mutation(
        f"{_SERVER}/commands/logs.py",
        "                _released,\n",
        "",
        "tests/server/test_released_logs.py::test_nothing_that_is_logged_shows_what_must_not_be_shown",
    ),
    Mutation(
        f"{_SERVER}/commands/audit.py",
        "[self._reading.entry(reader, entry) for entry in found]",
        "found",
        f"{_S}/test_canaries.py::test_no_canary_leaves_on_any_road",
    ),
    Mutation(
        f"{_SERVER}/undo/reversal.py",
        "        return json.dumps(_shown(told), ensure_ascii=False)\n",
        "        return json.dumps(_shown(told if told is None else value), ensure_ascii=False)\n",
        f"{_S}/test_canaries.py::test_no_canary_leaves_on_any_road",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        "        return self._release.output(name).release(output, Audience.MODEL, case.book).value\n",
        "        return output\n",
        f"{_S}/test_redaction.py::test_an_approver_reads_the_tokens_the_agent_read_and_the_stored_call_runs_with_the_values",
    ),
    Mutation(
        "tools/comptroller_tools/catalogue.py",
        "            shown_output = redacted(shown_output, self._patterns, redactions.output)\n",
        "            shown_output = dict(shown_output or {}) or None\n",
        f"{_S}/test_redaction.py::test_a_client_that_checks_answers_accepts_every_redacted_one",
    ),
    # -- tasks ----------------------------------------------------------------------------------------------------
    Mutation(
        f"{_BUDGETS}/lifecycle.py",
        "            not self.several\n",
        "            False\n",
        f"{_S}/test_tasks.py::test_one_begun_task_at_a_time",
    ),
    Mutation(
        f"{_BUDGETS}/lifecycle.py",
        "        if self.rests:\n",
        "        if False:\n",
        f"{_S}/test_tasks.py::test_after_a_hand_off_nothing_is_changed_outside_a_begun_task",
    ),
    Mutation(
        f"{_BUDGETS}/tasks.py",
        '        if self.changes and state.now_ms < pointer["rest_ms"]:\n',
        "        if False:\n",
        f"{_S}/test_tasks.py::test_after_a_hand_off_nothing_is_changed_outside_a_begun_task",
    ),
    Mutation(
        f"{_BUDGETS}/tasks.py",
        "    if left_ms <= 0:\n",
        "    if True:\n",
        f"{_S}/test_tasks.py::test_ending_an_exhausted_task_brings_no_new_budget",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "        if not is_exhausted(refusal):\n",
        "        if True:\n",
        f"{_S}/test_tasks.py::test_ending_an_exhausted_task_brings_no_new_budget",
    ),
    Mutation(
        f"{_BUDGETS}/tasks.py",
        '        if row is None or pointer_of(row["principal"], row["actor"]) != self.pointer:\n',
        "        if row is None:\n",
        "tests/budgets/test_lifecycle.py::test_a_foreign_task_that_is_named_is_as_unknown_as_none",
    ),
    Mutation(
        f"{_BUDGETS}/tasks.py",
        '    if row["state"] == TaskState.FINISHED:\n',
        "    if False:\n",
        "tests/budgets/test_lifecycle.py::test_what_has_ended_ends_once_and_takes_no_call",
    ),
    Mutation(
        f"{_BUDGETS}/tasks.py",
        "        return count_new_task(state, self.pointer, self.config, self.call)\n",
        "        return None\n",
        f"{_S}/test_tasks.py::test_no_more_tasks_begin_in_an_hour_than_the_config_says",
    ),
    Mutation(
        f"{_BUDGETS}/lifecycle.py",
        '        if self.seen_ms is not None and row["since_ms"] != self.seen_ms:\n',
        "        if False:\n",
        "tests/budgets/test_lifecycle.py::test_a_task_that_went_on_since_it_was_looked_at_does_not_end",
    ),
    Mutation(
        f"{_BUDGETS}/lifecycle.py",
        '        if row["in_flight"] > 0:\n',
        "        if False:\n",
        f"{_S}/test_tasks.py::test_a_task_does_not_end_while_a_call_of_it_runs",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "        if case.task.is_unknown:\n",
        "        if False:\n",
        f"{_S}/test_tasks.py::test_foreign_finished_and_unknown_tasks_answer_alike",
    ),
    Mutation(
        f"{_SERVER}/call/naming.py",
        "        if proposal.task_header not in (None, named):\n",
        "        if False:\n",
        f"{_S}/test_tasks.py::test_the_header_names_a_task_too_and_two_different_names_are_refused",
    ),
    Mutation(
        f"{_SERVER}/tasks/builtins.py",
        "not in self._orchestrators or not case.proposal.by_token:\n",
        "not in self._orchestrators:\n",
        f"{_S}/test_tasks.py::test_a_request_is_trusted_from_an_orchestrator_with_a_token_only",
    ),
    Mutation(
        f"{_SERVER}/tasks/finish.py",
        "            outcome, problem = self._judged(case, proof)\n",
        "            outcome = TaskOutcome.SUCCEEDED\n",
        f"{_S}/test_tasks.py::test_success_that_is_not_found_is_a_silent_wrong_and_closes_the_task",
    ),
    Mutation(
        f"{_SERVER}/tasks/finish.py",
        "        if not found.may_tell:\n",
        "        if False:\n",
        f"{_S}/test_tasks.py::test_what_the_caller_may_not_read_proves_and_is_not_told",
    ),
    Mutation(
        f"{_SERVER}/tasks/builtins.py",
        "        if self._roads.finds_secret([given, case.proposal.meta.get(META_REQUEST)]):\n",
        "        if False:\n",
        f"{_S}/test_tasks.py::test_what_a_built_in_refuses_is_on_record_once",
    ),
    Mutation(
        f"{_SERVER}/tasks/finish.py",
        '        if found.row["awaiting"] > 0 and claim != "abandoned":\n',
        "        if False:\n",
        f"{_S}/test_tasks.py::test_a_task_that_waits_for_a_person_cannot_claim_an_end",
    ),
    Mutation(
        f"{_SERVER}/tasks/rounds.py",
        "            if is_over(row, now, idle_s)\n",
        "            if True\n",
        f"{_S}/test_tasks.py::test_a_begun_task_that_is_left_idle_is_abandoned_and_recorded_once",
    ),
    Mutation(
        f"{_SERVER}/commands/released.py",
        '        if name == "step" and isinstance(value, dict):',
        "        if False:",
        "tests/server/test_cli_tasks.py::test_a_hand_off_is_released_for_the_person_who_reads_it",
    ),
    # -- reversals ------------------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/undo/reversal_parts.py",
        'elif row is None or row["state"] != CompensationState.OWED:',
        "elif row is None:",
        f"{_S}/test_compensation.py::test_who_wakes_after_its_reversal_was_handed_over_sends_nothing",
    ),
    Mutation(
        f"{_SERVER}/upkeep/recovery.py",
        "if one.call in self._reversing or not",
        "if not",
        f"{_S}/test_compensation.py::test_recovery_leaves_a_reversal_alone_that_is_about_to_begin",
    ),
    Mutation(
        f"{_SERVER}/call/decisions.py",
        "if stop is not None or case.reversal.verdict is Verdict.DENY:",
        "if stop is not None:",
        f"{_S}/test_compensation.py::test_what_policy_would_not_let_be_reversed_is_not_done",
    ),
    Mutation(
        f"{_SERVER}/call/decisions.py",
        "        case.decision = together(case.decision, case.reversal, target.name)\n",
        "",
        f"{_S}/test_compensation.py::test_the_approval_of_a_call_covers_its_reversal",
    ),
    Mutation(
        f"{_SERVER}/call/case.py",
        "return self.sound and self.tool_in_hand",
        "return self.tool_in_hand",
        f"{_S}/test_compensation.py::test_an_output_that_is_withheld_reverses_nothing",
    ),
    Mutation(
        f"{_SERVER}/call/case.py",
        'if self.compensates is None else ("", "")',
        'if True else ("", "")',
        f"{_S}/test_compensation.py::test_a_halt_of_the_person_or_the_task_does_not_leave_a_wrong_change_standing",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "guard = None if case.owes else case.guard",
        "guard = case.guard",
        f"{_S}/test_compensation.py::test_nobody_else_writes_to_a_record_while_it_is_put_right",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "        if case.cover:\n",
        "        if False:\n",
        f"{_S}/test_compensation.py::test_what_a_reversal_costs_is_held_for_with_the_call_and_given_back",
    ),
    Mutation(
        f"{_SERVER}/undo/compensation.py",
        "            if case.decision.verdict is Verdict.NEEDS_APPROVAL:\n",
        "            if False:\n",
        f"{_S}/test_rollback.py::test_a_person_without_the_role_that_its_gate_asks_for_reverses_nothing",
    ),
    Mutation(
        f"{_SERVER}/commands/rollback.py",
        "    if not voter.counts:\n",
        "    if False:\n",
        f"{_S}/test_rollback.py::test_without_a_credential_nothing_is_reversed",
    ),
    Mutation(
        f"{_SERVER}/app.py",
        "if head is None or head.bundle != installation.bundle_digest:",
        "if head is None:",
        f"{_S}/test_rollback.py::test_other_rules_than_those_in_force_reverse_nothing",
    ),
    Mutation(
        f"{_SERVER}/call/repeats.py",
        '"same_call" if code is Code.APPROVAL_EXPIRED else "never"',
        '"never"',
        f"{_S}/test_approvals.py::test_an_expired_approval_has_one_answer_whoever_noticed_the_time",
    ),
    Mutation(
        f"{_SERVER}/undo/rollback.py",
        'if row["tool"] in BUILT_INS:',
        "if False:",
        f"{_S}/test_rollback.py::test_a_task_that_was_begun_and_finished_by_name_is_taken_back_whole",
    ),
    Mutation(
        f"{_SERVER}/undo/rollback.py",
        "    if compensation is not None and is_open(compensation):\n",
        "    if False:\n",
        f"{_S}/test_rollback.py::test_a_reversal_in_doubt_is_not_tried_again",
    ),
    Mutation(
        f"{_SERVER}/call/lookups.py",
        "        breaker.note(outcome)\n",
        "",
        f"{_S}/test_look_ups.py::test_look_ups_that_raise_count_for_their_source_like_calls",
    ),
    # -- reads that are kept --------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/kept_reads.py",
        "marks is None or entry.marks != marks or",
        "marks is None or",
        f"{_S}/test_kept_reads.py::test_a_side_effect_is_followed_by_no_stale_result",
    ),
    Mutation(
        f"{_SERVER}/call/kept_reads.py",
        '        if any(row["count"] for row in rows.values()):\n',
        "        if False:\n",
        f"{_S}/test_kept_reads.py::test_while_a_side_effect_is_under_way_its_source_is_asked",
    ),
    Mutation(
        f"{_SERVER}/call/kept_reads.py",
        "history={**case.basis.history, **marks}",
        "history=case.basis.history",
        f"{_S}/test_kept_reads.py::test_a_side_effect_between_recalling_and_answering_has_the_source_asked",
    ),
    Mutation(
        f"{_SERVER}/call/kept_reads.py",
        "case.subject.roles, tool.name",
        "frozenset[str](), tool.name",
        f"{_S}/test_kept_reads.py::test_nobody_else_and_nobody_in_another_role_gets_what_one_has_read",
    ),
    Mutation(
        f"{_SERVER}/call/kept_reads.py",
        "return max(self._clock.monotonic() - at.monotonic, ",
        "return max(0, ",
        f"{_S}/test_kept_reads.py::test_a_clock_set_back_makes_nothing_young_and_one_set_forward_makes_it_old",
    ),
    Mutation(
        f"{_SERVER}/call/kept_reads.py",
        "if refusal.code in _NO_LONGER_SO:",
        "if False:",
        f"{_S}/test_kept_reads.py::test_who_is_told_to_read_again_reads_what_is_there_now",
    ),
    Mutation(
        f"{_SERVER}/pipeline.py",
        "            await self._outcomes.verify(case, self._look_ups)  # 11 verify\n",
        "            await self._outcomes.verify(case, self._look_ups)\n            self._kept_reads.keep(case)\n",
        f"{_S}/test_kept_reads.py::test_a_read_that_failed_or_timed_out_or_is_not_usable_is_not_kept",
    ),
    Mutation(
        f"{_SERVER}/call/endings.py",
        "is_over = state not in (None, CallState.IN_DOUBT)",
        "is_over = state is not None",
        f"{_S}/test_kept_reads.py::test_while_a_side_effect_is_in_doubt_its_source_is_asked",
    ),
    Mutation(
        f"{_SERVER}/call/commits.py",
        "            parts.append(effect_begins(case.tool_in_hand.name))\n",
        "            pass\n",
        f"{_S}/test_kept_reads.py::test_while_a_side_effect_is_under_way_its_source_is_asked",
    ),
    Mutation(
        f"{_SERVER}/call/dispatch.py",
        "if case.cached is not None:  # its source is not asked, however busy or broken it is",
        "if False:",
        f"{_S}/test_kept_reads.py::test_a_source_that_is_left_alone_still_has_its_probe_after_kept_results",
    ),
    Mutation(
        "tools/comptroller_tools/refs.py",
        "state.now_ms if self.read_ms is None else min(self.read_ms, state.now_ms)",
        "state.now_ms",
        f"{_S}/test_kept_reads.py::test_a_ref_is_as_old_as_its_read_and_not_as_its_answer",
    ),
    Mutation(
        f"{_SERVER}/config/safety.py",
        "    if tool.effect is not Effect.READ:\n",
        "    if False:\n",
        f"{_S}/test_kept_reads.py::test_cache_s_stands_only_where_it_can_mean_something",
    ),
    # -- servers of somebody else ---------------------------------------------------------------------------------
    Mutation(
        f"{_UPSTREAM}/results.py",
        "_without_media(result.structured_content)",
        "result.structured_content",
        "tests/tools/test_upstream_source.py::test_pictures_and_blobs_are_withheld_in_structured_content_too",
    ),
    Mutation(
        f"{_SERVER}/commands/import_servers.py",
        "    if missing or written_problems(config):\n",
        "    if written_problems(config):\n",
        "tests/server/test_import_command.py::test_a_server_that_cannot_be_started_leaves_the_client_as_it_was_until_it_can",
    ),
    Mutation(
        f"{_SERVER}/upstreams/switching.py",
        """    if hashlib.sha256(path.read_bytes()).hexdigest() != told["after"]:\n""",
        "    if False:\n",
        "tests/server/test_import_command.py::test_undo_gives_the_file_back_byte_for_byte_and_only_where_nobody_changed_it",
    ),
    Mutation(
        f"{_UPSTREAM}/calling.py",
        "(error.code == INVALID_PARAMS and errors is ErrorsMean.NOT_DONE)",
        "error.code == INVALID_PARAMS",
        "tests/tools/test_upstream_source.py::test_only_protocol_errors_that_come_instead_of_the_tool_mean_nothing_happened",
    ),
    Mutation(
        f"{_UPSTREAM}/definitions.py",
        "if len(one) == 1}",
        "}",
        "tests/tools/test_upstream_definitions.py::test_a_name_that_is_listed_twice_is_nobodys",
    ),
    Mutation(
        f"{_UPSTREAM}/source.py",
        "        if now.digest == pinned.digest:\n",
        "        if True:\n",
        "tests/tools/test_upstream_source.py::test_a_definition_that_changed_is_not_called",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "and tool.quarantine() is None",
        "and True",
        f"{_S}/test_upstreams.py::test_a_changed_definition_is_neither_listed_nor_called_and_the_refusal_is_recorded",
    ),
    Mutation(
        f"{_UPSTREAM}/link.py",
        "            self._relist.set()\n\n\nasync def",
        "            pass\n\n\nasync def",
        f"{_S}/test_upstreams.py::test_a_tool_that_changes_between_listing_and_call_is_set_aside",
    ),
    Mutation(
        f"{_UPSTREAM}/definitions.py",
        '        schema["additionalProperties"] = False\n',
        "        pass\n",
        f"{_S}/test_upstreams.py::test_arguments_that_no_policy_could_see_are_refused",
    ),
    Mutation(
        f"{_UPSTREAM}/over_stdio.py",
        "                if len(held) > most:\n                    ended",
        "                if False:\n                    ended",
        "tests/tools/test_upstream_source.py::test_a_message_that_is_too_long_ends_the_connection_before_it_is_in_memory",
    ),
    Mutation(
        f"{_UPSTREAM}/over_stdio.py",
        "{name: os.environ[name] for name in BASICS if name in os.environ}",
        "dict(os.environ)",
        "tests/tools/test_upstream_source.py::test_the_process_gets_only_the_basics_and_what_is_named",
    ),
    Mutation(
        f"{_UPSTREAM}/guard.py",
        "        if any(fd == lifeline for fd, _ in watched.poll()) or _asked:\n",
        "        watched.poll()\n        if _asked:\n",
        "tests/server/test_upstream_processes.py::test_no_upstream_outlives_its_server",
    ),
    Mutation(
        f"{_UPSTREAM}/pins.py",
        "if written.name != name or written.digest != ",
        "if False and written.digest != ",
        "tests/server/test_upstream_config.py::test_a_lock_file_that_was_changed_by_hand_does_not_load",
    ),
    Mutation(
        f"{_UPSTREAM}/results.py",
        "if errors is ErrorsMean.NOT_DONE else",
        "if True else",
        "tests/tools/test_upstream_source.py::test_an_error_of_the_tool_means_what_the_config_says",
    ),
    Mutation(
        f"{_SERVER}/call/upstream_words.py",
        "    text = _ODD.sub(_escaped, _spell(value))\n",
        "    text = _spell(value)\n",
        f"{_S}/test_upstreams.py::test_text_that_imitates_our_notices_stays_inside_its_line",
    ),
    # -- many values at once --------------------------------------------------------------------------------------
    Mutation(
        f"{_SERVER}/call/many.py",
        "            part_of=case.call,\n",
        "",
        f"{_S}/test_many.py::test_each_value_is_a_read_of_its_own_with_refs_and_a_record",
    ),
    Mutation(
        f"{_SERVER}/call/many.py",
        "at_once = 1 if self._bundle.reads(tool.name).history else",
        "at_once =",
        f"{_S}/test_many.py::test_a_rule_over_history_counts_the_items_of_one_batch",
    ),
    Mutation(
        f"{_SERVER}/call/many.py",
        "is_over = is_over or _code(answer) in _ENDS_IT",
        "is_over = False",
        f"{_S}/test_many.py::test_a_halt_stops_every_item_and_the_rest_is_not_tried",
    ),
    Mutation(
        f"{_SERVER}/call/many.py",
        "if self._roads.finds_secret([given]):",
        "if False:",
        f"{_S}/test_many.py::test_a_secret_in_a_list_goes_nowhere_and_is_kept_nowhere",
    ),
    Mutation(
        f"{_SERVER}/call/many.py",
        "        case.usage.charged += ",
        "        _ = ",
        f"{_S}/test_many.py::test_the_text_of_a_batch_is_metered_once",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "self._bundle.visible(\n            case.subject, many.name\n        ):",
        "many.name:",
        f"{_S}/test_many.py::test_who_may_not_read_one_may_not_read_many_nor_see_that_it_can_be_done",
    ),
    Mutation(
        f"{_SERVER}/config/checks.py",
        "    if name.casefold() in {other.casefold() for other in written.names}:\n",
        "    if False:\n",
        f"{_S}/test_many.py::test_a_batch_form_that_could_not_work_does_not_load",
    ),
    Mutation(
        f"{_UPSTREAM}/calling.py",
        "        if link.not_taken(error):\n",
        "        if error.error.code == -32_098:\n",
        "tests/tools/test_upstream_http.py::test_only_a_request_that_was_not_taken_had_no_effect",
    ),
    Mutation(
        f"{_UPSTREAM}/over_http.py",
        "            if self._left < 0:\n",
        "            if False:\n",
        "tests/tools/test_upstream_http.py::test_an_answer_that_is_too_large_is_given_up_and_the_connection_goes_on",
    ),
    Mutation(
        f"{_UPSTREAM}/over_http.py",
        'if response.headers.get("content-encoding", "identity").lower() != "identity":',
        "if False:",
        "tests/tools/test_upstream_http.py::test_only_a_request_that_was_not_taken_had_no_effect",
    ),
    Mutation(
        f"{_SERVER}/upstreams/standing.py",
        "        elif problems := _unusable(now):\n",
        "        elif problems := ():\n",
        "tests/server/test_classify_command.py::test_what_cannot_be_offered_is_said_and_never_accepted",
    ),
    # -- shaped tools ------------------------------------------------------------------------------------------------
    Mutation(
        "tools/comptroller_tools/catalogue.py",
        "            arguments=compile_schema(own),\n",
        "            arguments=compile_schema(definition.input_schema),\n",
        f"{_S}/test_shaping.py::test_an_argument_of_the_operators_is_unknown_like_any_other",
    ),
    Mutation(
        f"{_SERVER}/call/dispatch.py",
        "arguments=tool.shaping.sent(case.arguments)",
        "arguments=case.arguments",
        f"{_S}/test_shaping.py::test_a_model_sees_and_gives_its_own_arguments_and_the_source_gets_all",
    ),
    Mutation(
        f"{_SERVER}/call/intake.py",
        "tool.shaping.own(case.arguments) if case.resumed is not None else case.arguments",
        "case.arguments",
        f"{_S}/test_shaping.py::test_policy_people_and_records_see_what_is_sent_and_a_secret_by_its_reference_alone",
    ),
    Mutation(
        f"{_SERVER}/people/editing.py",
        "        if touched := tool.shaping.touched(before, after):\n",
        "        if touched := ():\n",
        f"{_S}/test_shaping.py::test_nobody_edits_what_the_operator_gives",
    ),
    Mutation(
        f"{_POLICY}/rules.py",
        "        *_hidden(tool, rules),\n",
        "",
        f"{_S}/test_shaping.py::test_a_hidden_tool_is_neither_listed_nor_callable_and_still_looks_things_up",
    ),
    Mutation(
        "tools/comptroller_tools/shaping.py",
        "    if tied := sorted(set(schema) - _PLAIN):\n",
        "    if tied := ():\n",
        f"{_S}/test_shaping.py::test_arguments_that_hang_together_are_not_shaped",
    ),
    Mutation(
        f"{_SERVER}/config/loading.py",
        "secrets=(*secrets, *key_secrets, *upstream_secrets, *fixed_values),",
        "secrets=(*secrets, *key_secrets, *upstream_secrets),",
        f"{_S}/test_shaping.py::test_policy_people_and_records_see_what_is_sent_and_a_secret_by_its_reference_alone",
    ),
)
