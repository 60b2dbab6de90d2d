"""The configurations of the demo: the desk's own, and others made from it with more of the product switched on.

Each is written to a folder of its own (`comptroller demo --keep`), so that it can be read and tried.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML

from comptroller_audit.vocabulary import Code

__all__ = ["CANARY", "FULL", "MAIN", "NEIGHBOUR", "TIGHT", "Setup"]


@dataclass(frozen=True, eq=False)
class Setup:
    """A configuration: `base` (or the desk's own) with `changes` laid over it.

    Mappings are merged and so are `tools` by name; anything else in `changes` stands in place of what was there.
    """

    name: str
    title: str
    changes: str = ""
    base: Setup | None = None

    def path(self, folder: Path) -> Path:
        return folder / "comptroller.yaml" if not self.changes else folder / self.name / "comptroller.yaml"

    def write(self, folder: Path, judge: str) -> None:
        """Write it, unless it is the desk's own, which is there. `judge` is the address of the local judge."""
        if not self.changes:
            return
        target = self.path(folder)
        target.parent.mkdir(exist_ok=True)
        (target.parent / "house_rules.py").write_text(_HOUSE_RULES)
        tree = self._tree(folder, judge or "http://127.0.0.1:9/v1")
        tree["policies"] = [f"../{pattern}" for pattern in tree.get("policies", [])]
        with target.open("w") as file:
            file.write(f"# {self.title}\n")
            _yaml().dump(tree, file)

    def _tree(self, folder: Path, judge: str) -> dict[str, Any]:
        written = self.changes.replace("JUDGE_URL", judge).replace("PYTHON", sys.executable)
        changes = _read(written.replace("NEIGHBOUR_SERVER", str(Path(__file__).with_name("neighbour.py"))))
        if self.base is not None and self.base.changes:
            below = self.base._tree(folder, judge)
        else:
            below = _read((folder / "comptroller.yaml").read_text())
            below = _laid_over(below, _read((folder / "comptroller.d" / "demo.yaml").read_text()))
        return _laid_over(below, changes)


def _yaml() -> Any:
    return YAML(typ="safe", pure=True)


def _read(text: str) -> dict[str, Any]:
    return cast("dict[str, Any]", _yaml().load(text) or {})


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(below)
    for key, value in above.items():
        if key == "tools":
            result[key] = _tools(result.get(key, []), value)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _laid_over(result[key], cast("dict[str, Any]", value))
        else:
            result[key] = value
    return result


def _tools(below: list[dict[str, Any]], above: list[dict[str, Any]]) -> list[dict[str, Any]]:
    changed = {tool["name"]: tool for tool in above}
    kept = [{**tool, **changed.pop(tool["name"], {})} for tool in below]
    return [*kept, *changed.values()]


MAIN = Setup("desk", "the desk's own configuration")

_CLIENTS = ", ".join(
    f"{code.value}: {{interactive: true}}" if code.value.startswith("confirmation") else f"{code.value}: {{}}"
    for code in Code
    if code is not Code.CONFIRMATION_NEEDED
)

FULL = Setup(
    "full",
    "The desk with more switched on: citations, personal data, success, checks, a judge, reversals.",
    """\
identity:
  local:
    clients:
      {case-bot: {}, hasty-bot: {}, citing-bot: {}, letter-bot: {}, undoing-bot: {}, confirmation_needed: {},
       writer-bot: {}, second: {}, CODE_CLIENTS}
sources:
  wiki: {python: comptroller_tools.desk.wiki, breaker: {failures: 2, reset_s: 5}}
budgets:
  windows:
    - {scope: principal, window: day, unit: refunded_usd, max: 5000}
retrieval: {freshness_sla_minutes: 5}
safety: {pii_redaction: [email, card_last4]}
approvals: {pending_per_principal_max: 100}
limits: {recovery_interval_s: 0.5, elicitation_wait_s: 0.5, attempts_per_minute_max: 1000,
         refusal_records_per_minute_max: 1000}
tasks:
  success:  # a task about a ticket has succeeded when the ticket is closed
    - {fact: ticket, tool: get_ticket, arguments: {ticket_id: "{task.unit.id}"}, unit: ticket, expect: {status: "'closed'"}}
models: {verifier: demo-judge}
prices: {demo-judge: {input_usd_per_mtok: 0.40, output_usd_per_mtok: 1.60}}
judges:
  promises:
    url: JUDGE_URL
    question: Does the draft promise money that the policy does not give?
    answers: ["yes", "no"]
    allow: ["no"]
    input: {draft: "{input.body}"}
    timeout_s: 2
tools:
  - name: issue_refund
    cites: [invoice]
    compensate: {tool: cancel_refund, arguments: {refund_id: "{output.refund_id}"}}
  - name: get_refund
    allow_actions: [read]
    records: [{kind: refund, id: "{output.refund_id}", version: "{output.updated_at}"}]
  - {name: find_cancelled_refund, allow_actions: [read], limits: {answer_kib_max: 64}}
  - name: cancel_refund  # an agent that wants it needs a person; Comptroller's own reversals do not
    facts: {refund: {tool: get_refund, arguments: {refund_id: "{input.refund_id}"}}}
    verify: [{fact: refund, expect: {status: "'cancelled'"}}]
    recover: {tool: find_cancelled_refund, arguments: {effect_key: "{call.effect_key}"}, absent_means: not_done}
    approval: [{role: approver, at_least: 1, when: 'principal.kind != "service"'}]
  - name: set_ticket_status
    allow_actions: [update]
    resource: "ticket:{input.ticket_id}"
    facts: {ticket: {tool: get_ticket, arguments: {ticket_id: "{input.ticket_id}"}}}
    verify: [{fact: ticket, expect: {status: "input.status"}}]
  - name: draft_reply
    allow_actions: [create]
    resource: "ticket:{input.ticket_id}"
    takes_tokens: [body]
    checks: [{python: "./house_rules.py:says_nothing_final", when: before, options: {text: input.body}}]
    judge: [promises]
    compensate: {tool: recall_draft, arguments: {reply_id: "{output.reply_id}"}}
  - {name: recall_draft, allow_actions: [delete], resource: "reply:{input.reply_id}"}
  - name: get_reply
    allow_actions: [read]
    records: [{kind: reply, id: "{output.reply_id}", version: "{output.updated_at}"}]
  - name: send_reply  # no mail can be called back
    allow_actions: [create]
    resource: "reply:{input.reply_id}"
    takes_tokens: [to]
    facts: {reply: {tool: get_reply, arguments: {reply_id: "{input.reply_id}"}}}
    verify: [{fact: reply, expect: {sent_to: "input.to"}}]
  - {name: search_policy, source: wiki, allow_actions: [read]}
  - {name: get_policy, source: wiki, allow_actions: [read], limits: {timeout_s: 0.4, retries_max: 0}}
  - name: get_access_request
    allow_actions: [read]
    resource: "request:{input.request_id}"
    records: [{kind: request, id: "{output.request_id}", version: "{output.updated_at}"}]
  - name: grant_access  # the person at the client confirms it
    allow_actions: [create]
    resource: "request:{input.request_id}"
    facts: {request: {tool: get_access_request, arguments: {request_id: "{input.request_id}"}}}
    verify: [{fact: request, expect: {status: "'granted'"}}]
    approval: [{role: requester}]
""".replace("CODE_CLIENTS", _CLIENTS),
)

CANARY = Setup(
    "canary",
    "The same, where a person agrees to every side effect, except to half of the refunds: the canary.",
    """\
identity: {local: {clients: {canary-bot: {}}}}
rollout: {mode: human_approval, canary_percent: 50, promote_after: 3}
tools:
  - {name: issue_refund, approval: []}
""",
    FULL,
)

TIGHT = Setup(
    "tight",
    "The same for another person, with hardly any time, attempts or room.",
    """\
identity: {local: {subject: hurried}}
budgets: {timeout_seconds: 1}
approvals: {expires_s: 1, pending_per_principal_max: 1}
limits: {attempts_per_minute_max: 12, recovery_interval_s: 30}
tools:
  - {name: issue_refund, cites: []}
""",
    FULL,
)

NEIGHBOUR = Setup(
    "neighbour",
    "The desk with an MCP server of somebody else as a second source.",
    """\
identity: {local: {clients: {parcel-bot: {}}}}
sources:
  neighbour: {mcp: {command: "PYTHON", args: ["-I", "-S", "NEIGHBOUR_SERVER"]}}
""",
)

_HOUSE_RULES = '''\
"""What this desk wants to be so before anything is drafted. A check can only refuse."""

from comptroller_tools.checks import CallView, CheckVerdict, DataPath, Failed, Passed


def says_nothing_final(call: CallView, *, text: DataPath) -> CheckVerdict:
    """No draft speaks for the legal department."""
    return Failed("a draft must not speak of lawyers.") if "lawyer" in str(call.value(text)) else Passed()
'''
