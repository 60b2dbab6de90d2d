"""Model usage at the pipeline's seams: what a client reports, what is estimated, and what waits for the next commit.

Tokens are charged in the commits that a call makes anyway. What no commit took (a refused call, a replay) waits in
memory for the task's next one; a process that dies before it loses that much, and the next report covers it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import Code, Json, Refusal, Subject
from comptroller_budgets.limits import COST, METERED_UNITS, Charge, Limit, charges_for
from comptroller_budgets.metering import NOTHING_METERED, Meter, Metered, tokens_of_bytes
from comptroller_budgets.prices import NO_TOKENS, PriceSheet, Tokens
from comptroller_policy.paths import is_list
from comptroller_server.call.answers import answer_text
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.endings import CLAIM_FREED
from comptroller_server.call.proposal import AdvertisedTool
from comptroller_server.config.model import Config

__all__ = ["META_USAGE", "Metering", "metering_of"]

META_USAGE = "comptroller/usage"
REPORTS_MAX = 32
"""Reports in one call."""
TASKS_WAITING_MAX = 10_000
"""Tasks whose uncommitted usage is kept; beyond it the oldest is forgotten."""
_REQUIRED = frozenset({"model", "input_tokens", "output_tokens"})
_KNOWN = _REQUIRED | {"total_tokens"}


class Metering:
    """Charges calls for the models around them. Off where the config names no model and no limit on what they use."""

    def __init__(
        self,
        sheet: PriceSheet,
        limits: Sequence[Limit],
        counts_cost: bool,
        waiting: dict[tuple[str, str], Metered] | None = None,
    ) -> None:
        self._sheet = sheet
        self._counts_cost = counts_cost
        self._limits = tuple(limit for limit in limits if limit.unit in METERED_UNITS)
        self.listing: Callable[[Subject], Sequence[AdvertisedTool]] = lambda _: ()
        """What a principal's clients list; its owner sets it."""
        self._listed_to = lru_cache(maxsize=1_000)(self._listed)
        self._waiting: dict[tuple[str, str], Metered] = {} if waiting is None else waiting
        self.is_on = bool(self._limits or sheet.names or counts_cost)

    def receive(self, case: Case) -> None:
        """Read what the client reports with this call. Raises `Refused` for a report that cannot be counted."""
        if self.is_on:
            case.usage.is_metered = True
            case.usage.said = tokens_of_bytes(_size(case.proposal.arguments))
        given = case.proposal.meta.get(META_USAGE)
        if given is not None:
            case.usage.reports = self._reports(given)

    def begins(self, case: Case) -> list[Meter]:
        """For a commit before the call: refused where a limit is reached, else what was said is charged."""
        return self._charging(case, Tokens(0, case.usage.said), ends=False) if self.is_on else []

    def whole(self, case: Case) -> list[Meter]:
        """For the one commit of a read: the same, with its answer."""
        if not self.is_on:
            return []
        said = Tokens(tokens_of_bytes(len(answer_text(case).encode())), case.usage.said)
        return self._charging(case, said, ends=True)

    def ends(self, case: Case) -> list[Meter]:
        """For the commit after the call: its answer. Nothing is refused any more."""
        if not self.is_on:
            return []
        text = case.problem.text if case.problem is not None else answer_text(case)
        answer = Tokens(tokens_of_bytes(len(text.encode())))
        case.usage.offered, case.usage.is_offered = answer, True
        self._name_reports(case)
        own = Metered(answer, NO_TOKENS if case.usage.reports else answer)
        return [
            Meter(
                case.task.id,
                case.usage,
                self._sheet,
                NOTHING_METERED,
                own,
                self._charges(case),
                ends=True,
                tool_cost_micro=self._tool_cost(case),
            )
        ]

    def charged(self, case: Case) -> None:
        """A commit is durable; one without a part of ours has charged nothing."""
        usage = case.usage
        if not usage.is_offered:
            return
        usage.is_offered = False
        usage.charged, usage.offered = usage.charged + usage.offered, NO_TOKENS
        usage.took, usage.judged, usage.is_told = NOTHING_METERED, {}, True

    def answered(self, case: Case, text: str) -> None:
        """The call was answered; what no commit has charged waits for the task's next one."""
        if not self.is_on:
            return
        usage = case.usage
        own = Tokens(tokens_of_bytes(len(text.encode(errors="replace"))), usage.said).less(usage.charged)
        rest = Metered(own, NO_TOKENS if usage.reports else own, judged=usage.judged)
        if not usage.is_told:
            rest = usage.took.then(Metered(reports=usage.reports)).then(rest)
        if rest != NOTHING_METERED:
            self._keep((case.tenant, case.task.id), rest)

    def reached(self, case: Case, reader: Reader) -> Refusal | None:
        """Whether a metered limit is reached already, with what waits in memory; for spending before a commit."""
        if not self.is_on:
            return None
        usage = case.usage
        waiting = usage.took.then(self._waiting.get((case.tenant, case.task.id), NOTHING_METERED))
        before = waiting.then(Metered(reports=usage.reports))
        own = Metered(judged=usage.judged)
        meter = Meter(case.task.id, usage, self._sheet, before, own, self._charges(case), call_id=case.call)
        return meter.reached(lambda relation, row: reader.row(case.tenant, relation, row), case.window_ms)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _charging(self, case: Case, own: Tokens, *, ends: bool) -> list[Meter]:
        usage = case.usage
        if usage.took_from != case.task.id:
            if usage.took != NOTHING_METERED:
                self._keep((case.tenant, usage.took_from), usage.took)
            usage.took = self._waiting.pop((case.tenant, case.task.id), NOTHING_METERED)
            usage.took_from = case.task.id
        usage.offered, usage.is_offered = own, True
        self._name_reports(case)
        return [
            Meter(
                case.task.id,
                usage,
                self._sheet,
                usage.took.then(Metered(reports=usage.reports)),
                Metered(own, NO_TOKENS if usage.reports else own, judged=usage.judged),
                self._charges(case),
                self._listed_to(case.subject),
                checks=True,
                ends=ends,
                call_id=case.call,
                tool_cost_micro=self._tool_cost(case),
            )
        ]

    def _charges(self, case: Case) -> tuple[Charge, ...]:
        return charges_for(self._limits, dict.fromkeys(METERED_UNITS, 1), case.scopes, case.window_ms)

    def _tool_cost(self, case: Case) -> int | None:
        """What the call's tool cost; nothing where it changed nothing."""
        if not self._counts_cost:
            return None
        amounts = (charge.amount_micro for charge in case.charges if charge.limit.unit == COST)
        return 0 if case.state in CLAIM_FREED else max(amounts, default=0)

    def _listed(self, subject: Subject) -> int:
        """Tokens of the tool list as a client shows it to its model."""
        tools = self.listing(subject)
        texts = (f"{tool.name} {tool.description} {json.dumps(tool.input_schema)}" for tool in tools)
        return tokens_of_bytes(sum(len(text.encode()) for text in texts))

    def _name_reports(self, case: Case) -> None:
        """The packet says which roles and models were reported; the sums are added by the commit."""
        case.usage.packet["reported"] = [
            {
                "name": name,
                "model": self._sheet.model_of(name),
                "input_tokens": tokens.input,
                "output_tokens": tokens.output,
            }
            for name, tokens in case.usage.reports.items()
        ]

    def _keep(self, key: tuple[str, str], rest: Metered) -> None:
        self._waiting[key] = self._waiting.pop(key, NOTHING_METERED).then(rest)
        while len(self._waiting) > TASKS_WAITING_MAX:
            self._waiting.pop(next(iter(self._waiting)))

    def _reports(self, given: Any) -> dict[str, Tokens]:
        entries: Sequence[Any] = given if is_list(given) else [given]
        if not 1 <= len(entries) <= REPORTS_MAX:
            raise _unfit(f"must be one report or a list of 1 to {REPORTS_MAX}")
        reports: dict[str, Tokens] = {}
        for entry in entries:
            name, tokens = self._report(entry)
            if name in reports:
                raise _unfit(f"reports {json.dumps(name)} twice; add the numbers up")
            reports[name] = tokens
        return reports

    def _report(self, entry: Any) -> tuple[str, Tokens]:
        if (
            not isinstance(entry, dict)
            or not _REQUIRED <= (fields := cast("Mapping[str, Json]", entry)).keys() <= _KNOWN
        ):
            raise _unfit("must be {model, input_tokens, output_tokens} and, if you like, total_tokens")
        counts = [fields[name] for name in ("input_tokens", "output_tokens") if name in fields]
        total = fields.get("total_tokens", 0)
        if not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**53 for n in (*counts, total)
        ):
            raise _unfit("counts tokens in whole numbers from 0 to 2^53-1")
        name = fields["model"]
        if not isinstance(name, str) or self._sheet.model_of(name) is None:
            names = ", ".join(f"`{known}`" for known in self._sheet.names[:20])
            known = (
                f"use one of {names}"
                if names
                else "the configuration names no model, so leave the report out"
            )
            raise _unfit(f"names a model or role whose price is not known; {known}")
        read, written = cast("list[int]", counts)
        total = cast("int", total)
        if "total_tokens" in fields and total < read + written:
            raise _unfit("has a total_tokens below input_tokens and output_tokens together")
        return name, Tokens(read, max(written, total - read))


def metering_of(config: Config, waiting: dict[tuple[str, str], Metered] | None = None) -> Metering:
    """The metering that a configuration asks for. `waiting` is the usage that no commit has charged yet."""
    counts_cost = any(tool.cost_usd is not None for tool in config.tools)
    return Metering(PriceSheet(config.models, config.prices), config.budgets.limits(), counts_cost, waiting)


def _size(arguments: Mapping[str, Any]) -> int:
    """UTF-8 bytes of arguments as JSON."""
    return len(json.dumps(arguments, ensure_ascii=False, default=str).encode(errors="replace"))


def _unfit(what: str) -> Refused:
    text = f"`_meta` (`{META_USAGE}`) {what}. It says what each model has used since the task began, so numbers only rise."
    return Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
