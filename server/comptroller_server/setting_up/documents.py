"""The texts of a first configuration: `comptroller.yaml`, a policy file, and what else a source needs. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib.resources import files

from comptroller_server.config.editor_schema import SCHEMA_NAME, published_schema
from comptroller_server.setting_up.answers import Answers, SourceKind, source_name
from comptroller_server.setting_up.proposing import Proposed

__all__ = ["CONFIG", "DESK_UNIT", "documents"]

CONFIG = "comptroller.yaml"
POLICY = "policies/first.cedar"
CASES = "policies/first.test.yaml"
SCENARIOS = "evals/first.eval.yaml"
DESK_FILE = "desk_sample.py"
DESK_UNIT = "refunded_usd"
"""What the sample desk counts."""
_ALONE = Decimal("0.4")
"""The part of the most that one call may move which goes without a person."""
_DESK_MOST = Decimal(999_999)
"""The desk's own tools take no more."""
_LEFT_ON_SMALL, _LEFT_ON_LARGE = Decimal("28.69"), Decimal(49)
"""What can still be refunded, in USD, of the two invoices that the scenarios act on."""
_SCENARIO_CALLS_MIN = 10
"""With fewer calls in a task a scenario would be stopped by the budget, whatever the rules say."""


def documents(answers: Answers, tools: Sequence[Proposed]) -> dict[str, str]:
    """Path below the folder to text. The configuration is last, so that whoever writes them in order writes it last."""
    texts = {SCHEMA_NAME: published_schema(), POLICY: _policy(answers, tools)}
    if answers.source is SourceKind.DESK:
        texts[DESK_FILE] = _DESK_MODULE
        texts |= _desk_cases(answers) | _desk_scenarios(answers)
    return {**texts, CONFIG: _config(answers, tools)}


def _config(answers: Answers, tools: Sequence[Proposed]) -> str:
    sections = [
        _head(answers),
        _identity(answers),
        _sources(answers),
        _budgets(answers, tools),
        _tools(answers, tools),
    ]
    return "\n".join(sections) + '\npolicies: ["policies/*.cedar"]        # rules of your own, in Cedar\n'


def _head(answers: Answers) -> str:
    kept = f"{{data_dir}}/{answers.store}"
    return f"""\
# yaml-language-server: $schema=./{SCHEMA_NAME}
# Made by `comptroller init`; yours to edit. `comptroller check` tells every mistake with its line.
agent: {{name: {_text(answers.agent)}, objective: {_text(answers.objective)}}}
{_environment(answers)}
store:                                    # this agent's own records; {{data_dir}} is your data directory
  url: "sqlite:///{kept}/comptroller.db"
  keys: {{file: "{kept}/keys.json"}}        # back it up: without it the records cannot be read
  checkpoints: [{{file: "{kept}/checkpoints.log"}}]   # copy it elsewhere: the log is proved against it
"""


def _environment(answers: Answers) -> str:
    """The sample alone may be played with: its records are made up."""
    if answers.source is not SourceKind.DESK:
        return ""
    return "environment: sandbox                      # `comptroller eval run` acts on it; give real sources another\n"


def _identity(answers: Answers) -> str:
    roles = "    roles: [support_agent]\n" if answers.source is SourceKind.DESK else ""
    return f"""\
identity:
  local:
{roles}    clients: {{{answers.client.value}: {{interactive: true}}}}   # add one for each client that connects
"""


def _sources(answers: Answers) -> str:
    if answers.source is SourceKind.IMPORT:
        return "# sources: `comptroller import` writes those of your client to comptroller.d/imported.yaml\n"
    if answers.mcp is not None:
        written = answers.mcp.model_dump(mode="json", exclude_defaults=True)
        return f"sources:\n  {source_name(answers)}: {{mcp: {_text(written)}}}\n"
    target = f"./{DESK_FILE}" if answers.target is None else answers.target
    return f"sources:\n  {source_name(answers)}: {{python: {_text(target)}}}\n"


def _budgets(answers: Answers, tools: Sequence[Proposed]) -> str:
    limits = answers.limits
    lines = [
        "budgets:                                  # a task that has used one of these up is refused, and handed over",
        f"  max_tool_calls: {limits.calls}",
        f"  timeout_seconds: {limits.minutes * 60}                    # of work; waiting for a person does not count",
    ]
    if _counts_money(answers, tools):
        unit = DESK_UNIT if answers.source is SourceKind.DESK else limits.unit
        lines += [
            "  windows:                                # these hold across tasks",
            f"    - {{scope: principal, window: day, unit: {unit}, max: {_ten_times(limits.most)}}}",
        ]
    return "\n".join(lines) + "\n"


def _counts_money(answers: Answers, tools: Sequence[Proposed]) -> bool:
    return answers.source is SourceKind.DESK or any(tool.money for tool in tools)


def _tools(answers: Answers, tools: Sequence[Proposed]) -> str:
    if answers.source is SourceKind.DESK:
        return _desk_tools(answers)
    if answers.source is not SourceKind.PYTHON:
        unit, most = answers.limits.unit, answers.limits.most
        return (
            "# tools: `comptroller classify` writes an entry for each tool that you accept to comptroller.d/. To what\n"
            "# moves money add, with the name of its argument:\n"
            f"#   constraints: {{max_amount: {most}}}\n"
            f'#   units: {{{unit}: "input.amount"}}\n'
            f"# and to `budgets`: windows: [{{scope: principal, window: day, unit: {unit}, max: {_ten_times(most)}}}]\n"
        )
    lines = [
        "tools:                                    # what each may do was guessed from its name: read it over"
    ]
    for tool in tools:
        lines += ["", *_entry(answers, tool)]
    return "\n".join(lines) + "\n"


def _entry(answers: Answers, tool: Proposed) -> list[str]:
    lines = [f"  - name: {tool.name}"]
    if tool.is_read:
        return [*lines, "    allow_actions: [read]"]
    lines.append(
        f"    allow_actions: [{tool.effect.value}]               # or create, update, delete, execute, whichever it is"
    )
    if tool.money is None:
        return [*lines, "    approval: [{role: approver}]           # a person agrees to each call"]
    amount, limits = f"input.{tool.money}", answers.limits
    return [
        *lines,
        f"    constraints: {{max_{tool.money}: {limits.most}}}",
        f'    units: {{{limits.unit}: "{amount}"}}',
        "    approval: [{role: approver}]           # a person agrees to each call; `when` makes it some of them",
    ]


def _desk_tools(answers: Answers) -> str:
    """The tools of the packaged sample, with the limits that were asked for."""
    sample = files("comptroller_tools.desk").joinpath(CONFIG).read_text(encoding="utf-8")
    tools = sample[sample.index("\ntools:\n") + 1 : sample.index("\npolicies:")]
    most = Decimal(answers.limits.most)
    alone = format((most * _ALONE).quantize(Decimal("0.01")).normalize(), "f")
    tools = re.sub(r"max_amount_usd: \d+", f"max_amount_usd: {most:f}", tools)
    return re.sub(r'decimal\("\d+"\)', f'decimal("{_cedar(alone)}")', tools)


def _desk_cases(answers: Answers) -> dict[str, str]:
    """What the desk's rules must decide under these limits, for `comptroller policy test`; nothing for odd ones."""
    amounts = _desk_amounts(answers)
    if amounts is None:
        return {}
    written = {name: f"{amount:f}" for name, amount in amounts.items()}
    return {CASES: _DESK_CASES.format(ample=_ten_times(answers.limits.most), **written)}


def _desk_scenarios(answers: Answers) -> dict[str, str]:
    """What must come of calls under these limits, for `comptroller eval run`; only what the sample's invoices allow."""
    amounts = _desk_amounts(answers)
    if amounts is None or answers.limits.calls < _SCENARIO_CALLS_MIN:
        return {}
    texts = [_SCENARIOS_BEGIN]
    if amounts["above_alone"] <= _LEFT_ON_LARGE:
        texts.append(_SCENARIO_ASKED)
    if amounts["most"] > _LEFT_ON_SMALL:
        texts.append(_SCENARIO_LEFT)
    texts.append(_SCENARIO_MOST)
    written = {name: f"{amount:f}" for name, amount in amounts.items()}
    little = min(amounts["small"], Decimal(5))
    return {SCENARIOS: "\n".join(texts).format(little=f"{little:f}", **written)}


def _desk_amounts(answers: Answers) -> dict[str, Decimal] | None:
    """Amounts on either side of each limit, in USD; None for limits that leave no room for them."""
    most, cent = Decimal(answers.limits.most), Decimal("0.01")
    alone = (most * _ALONE).quantize(cent)
    small = (alone / 2).quantize(cent)
    if small < cent or most > _DESK_MOST:
        return None
    return {
        "small": small,
        "above_small": small + cent,
        "alone": alone,
        "above_alone": alone + cent,
        "most": most,
        "above_most": most + cent,
    }


def _ten_times(most: str) -> str:
    return f"{(Decimal(most) * 10).normalize():f}"


def _cedar(number: str) -> str:
    """A decimal as Cedar takes it: with a point."""
    return number if "." in number else f"{number}.0"


def _policy(answers: Answers, tools: Sequence[Proposed]) -> str:
    if answers.source is SourceKind.DESK:
        sample = (
            files("comptroller_tools.desk").joinpath("policies/refunds.cedar").read_text(encoding="utf-8")
        )
        return _ABOUT + sample[sample.index("@id") :]
    tool = next((one.name for one in tools if not one.is_read), "TOOL")
    example = f"""\
@id("look-first")
@reason("Nothing is changed until somebody has looked at this rule.")
forbid (principal, action == Comptroller::Action::"{tool}", resource);
"""
    return (
        _ABOUT
        + "// An example, switched off:\n//\n"
        + "".join(f"//   {line}\n" for line in example.splitlines())
    )


def _text(value: str | Mapping[str, object]) -> str:
    """In JSON, which YAML reads."""
    return json.dumps(value, ensure_ascii=False)


_ABOUT = """\
// Rules of your own, beside those in comptroller.yaml, which `comptroller policy show` prints.
// A `forbid` that matches stops the call; agent and approver read its @reason, and the record names its @id.
// `context` holds `input` (the arguments), `facts` (what was looked up), `derived` and `history`.

"""

_DESK_CASES = """\
# What the rules must decide. `comptroller policy test` runs these cases; change a rule, and see what it breaks.
defaults:
  tool: issue_refund
  principal: {{roles: [support_agent]}}
  arguments: {{invoice_id: inv_1, amount_usd: {small}, reason_code: goodwill}}
  facts:
    invoice: {{paid_usd: {ample}, refunded_usd: 0}}

cases:
  - name: a small refund runs
    expect: allow
    policies: [issue_refund.allow]

  - name: more than what is left on the invoice is denied
    arguments: {{amount_usd: {above_small}}}
    facts: {{invoice: {{paid_usd: {small}, refunded_usd: 0}}}}
    expect: deny
    policies: [refund-within-paid]

  - name: above {alone} dollars a person is asked
    arguments: {{amount_usd: {above_alone}}}
    expect: needs_approval
    policies: [issue_refund.approval.approver]

  - name: with a person's yes it runs
    arguments: {{amount_usd: {above_alone}}}
    approvals: {{approver: 1}}
    expect: allow

  - name: more than {most} dollars is denied, whatever is left
    arguments: {{amount_usd: {above_most}}}
    expect: deny
    policies: [issue_refund.max_amount_usd]

  - name: nobody else may refund
    principal: {{roles: []}}
    expect: deny
    policies: [default.deny]
"""

_SCENARIOS_BEGIN = """\
# What must come of calls, end to end. `comptroller eval run` plays this on records of its own; the desk's stay as they are.
environment: sandbox
env: {{COMPTROLLER_DESK: "{{data_dir}}/desk.db", COMPTROLLER_DESK_SEED: "1"}}

scenarios:
  - name: a small refund is made, and the ticket was read first
    steps:
      - call: get_ticket
        arguments: {{ticket_id: tic_hr7jdr9h}}
        save_as: ticket
      - call: lookup_invoice
        arguments: {{invoice_id: "{{ticket.invoice_id}}"}}
        save_as: invoice
      - call: issue_refund
        arguments: {{invoice_id: "{{invoice.invoice_id}}", amount_usd: {little}, reason_code: goodwill}}
        why: The service was down.
        cites: [ticket, invoice]
        output: {{amount_usd: {little}}}
"""
_SCENARIO_ASKED = """\
  - name: above {alone} dollars a refund waits for a person
    steps:
      - call: issue_refund
        arguments: {{invoice_id: inv_k9mt34jw, amount_usd: {above_alone}, reason_code: goodwill}}
        expect: approval_pending

  - name: with a person's yes it is made
    steps:
      - call: issue_refund
        arguments: {{invoice_id: inv_k9mt34jw, amount_usd: {above_alone}, reason_code: goodwill}}
        approve: {{approver: 1}}
"""
_SCENARIO_LEFT = """\
  - name: more than what is left on the invoice is denied
    steps:
      - call: issue_refund
        arguments: {{invoice_id: inv_bye6m6n4, amount_usd: {most}, reason_code: goodwill}}
        expect: denied
"""
_SCENARIO_MOST = """\
  - name: more than {most} dollars is denied
    steps:
      - call: issue_refund
        arguments: {{invoice_id: inv_k9mt34jw, amount_usd: {above_most}, reason_code: goodwill}}
        expect: denied
"""

_DESK_MODULE = '''\
"""The sample support desk. Its tickets, invoices and refunds lie in desk.db, beside this file."""

import os
from pathlib import Path

os.environ.setdefault("COMPTROLLER_DESK", str(Path(__file__).resolve().with_name("desk.db")))

from comptroller_tools.desk.tools import (  # noqa: E402
    cancel_refund,
    find_refund,
    get_ticket,
    issue_refund,
    lookup_invoice,
    search_tickets,
)

__all__ = ["cancel_refund", "find_refund", "get_ticket", "issue_refund", "lookup_invoice", "search_tickets"]
'''
