"""The narrow judge: a model asked one question about a call that policy allows. It can only refuse.

The answer is one word of a closed list. A word that the config allows lets the call go on; any other word, no word, a
late or broken answer, and every error refuse it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from comptroller_audit.ambient import Clock, Ids
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Store
from comptroller_audit.vocabulary import Code, Json, JsonObject, Refusal
from comptroller_budgets.metering import added
from comptroller_budgets.prices import Tokens
from comptroller_policy.errors import ExpressionError
from comptroller_policy.expressions import render
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.lookups import unavailable
from comptroller_server.call.metering import Metering
from comptroller_server.call.roads import Roads
from comptroller_server.checks.judge_client import Completion, JudgeClient, NoAnswer
from comptroller_server.checks.judge_prompt import messages, read_answer, response_format
from comptroller_server.checks.judged import Judged, JudgeUsage
from comptroller_server.config.judges import JudgeConfig

__all__ = ["Judge", "Judging"]

AT_ONCE_MAX = 32
"""Judges asked at once in one process; nothing queues."""
PROMPT_BYTES_MAX = 131_072
ANSWER_TOKENS_MAX = 64
NONCE_BYTES = 16
_BYTES_PER_TOKEN = 4

_log = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Judge:
    """One entry of `judges:` with its model and the value behind its `key`."""

    name: str
    config: JudgeConfig
    model: str
    key: str | None


class Judging:
    """Asks a tool's judges, in the order of the config, up to the first that does not allow."""

    def __init__(
        self,
        judges: Mapping[str, Judge],
        store: Store,
        metering: Metering,
        release: Roads,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._metering = metering
        self._judges = judges
        self._release = release
        self._clock = clock
        self._ids = ids
        self._client = JudgeClient()
        self._asked = 0

    async def ask(self, case: Case) -> None:
        """Every judgement goes on the case. Raises `Refused` at the first that is not an allowed answer.

        A decision made again, because its basis moved, does not ask again what was asked of the same values.
        """
        for name in case.tool_in_hand.config.judge:
            judge = self._judges[name]
            values = self._values(case, judge)
            about = hashlib.sha256(json.dumps([name, values]).encode()).hexdigest()
            if any(known.about == about and known.is_allowed for known in case.judged):
                continue
            spent = await self._store.read(lambda reader: self._metering.reached(case, reader))
            if spent is not None:
                raise Refused(spent)  # a question costs tokens, and there are none left
            judged = await self._judged(case, judge, values, about)
            case.judged += (judged,)
            tokens = Tokens(judged.usage.input_tokens, judged.usage.output_tokens)
            case.usage.judged = added(case.usage.judged, {judge.model: tokens})
            if not judged.is_allowed:
                case.checks_deny = judged.answer is not None
                raise Refused(_refusal(case, judge, judged))

    async def close(self) -> None:
        await self._client.close()

    def _values(self, case: Case, judge: Judge) -> dict[str, Json]:
        """What the judge is shown: no more than the config names, by the field rules of the tools it comes from."""
        tool = case.tool_in_hand.name
        scope = {
            "input": self._release.arguments(tool).release(case.arguments, Audience.MODEL).value,
            "facts": self._release.facts(tool, case.facts, Audience.MODEL),
        }
        try:
            values: Json = {label: render(template, scope) for label, template in judge.config.input.items()}
        except ExpressionError as error:
            raise Refused(unavailable(case, f"judge {judge.name}: {error}")) from error
        released = self._release.release(values, Audience.MODEL).value
        assert isinstance(released, dict)
        return released

    async def _judged(self, case: Case, judge: Judge, values: dict[str, Json], about: str) -> Judged:
        started = self._clock.monotonic()
        body = self._body(judge, values)
        sent = hashlib.sha256(body).hexdigest()
        completion: Completion | None = None
        answer: str | None = None
        problem, was_sent = "", True
        try:
            completion = await self._complete(case, judge, body)
            answer = read_answer(completion.content, judge.config.answers) if completion.content else None
            if answer is None:
                problem = "its answer is none of the words it may use"
        except NoAnswer as error:
            problem, was_sent = str(error), error.was_sent
            _log.warning("a judge gave no answer", judge=judge.name, call=case.call, why=problem)
        return Judged(
            judge.name,
            judge.model,
            answer,
            answer in judge.config.allow,
            problem,
            was_asked=completion is not None,
            prompt_sha256=sent,
            about=about,
            took_ms=round((self._clock.monotonic() - started) * 1000),
            usage=_usage(len(body) if was_sent else 0, completion),
        )

    async def _complete(self, case: Case, judge: Judge, body: bytes) -> Completion:
        if len(body) > PROMPT_BYTES_MAX:
            raise NoAnswer(f"what it is to be shown is larger than {PROMPT_BYTES_MAX} bytes", was_sent=False)
        if self._asked >= AT_ONCE_MAX:
            raise NoAnswer("too many calls are being judged", was_sent=False)
        timeout_s = judge.config.timeout_s
        if case.task.remaining_ms is not None:
            timeout_s = min(timeout_s, max(0.001, case.task.remaining_ms / 1000))
        self._asked += 1
        try:
            return await self._client.complete(judge.config.url, judge.key, body, timeout_s)
        finally:
            self._asked -= 1

    def _body(self, judge: Judge, values: dict[str, Json]) -> bytes:
        """The request as it is sent; its SHA-256 goes on record."""
        config = judge.config
        nonce = self._ids.random_bytes(NONCE_BYTES).hex()
        body: JsonObject = {
            "model": judge.model,
            "messages": list[Json](messages(config.question, config.answers, values, nonce)),
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS_MAX,
        }
        if config.json_schema:
            body["response_format"] = response_format(config.answers)
        return json.dumps(body).encode()


def _usage(sent: int, completion: Completion | None) -> JudgeUsage:
    """What the endpoint says it cost; where it says nothing, an estimate from bytes."""
    said = completion.content or "" if completion is not None else ""
    told = (completion.input_tokens, completion.output_tokens) if completion is not None else (None, None)
    estimate = (-(-sent // _BYTES_PER_TOKEN), -(-len(said.encode()) // _BYTES_PER_TOKEN))
    if told[0] is None or told[1] is None:
        return JudgeUsage(*estimate, is_estimated=True)
    return JudgeUsage(told[0], told[1])


def _refusal(case: Case, judge: Judge, judged: Judged) -> Refusal:
    """In words. What it answered is one of the config's own words, so it can be told."""
    details: JsonObject = {"judge": judge.name}
    if judge.config.facts and not case.may_tell_facts():
        return unavailable(case, f"judge {judge.name}: {judged.answer or judged.problem}")
    if judged.answer is not None:
        asked = json.dumps(judge.config.question, ensure_ascii=False)
        text = (
            f"The judge `{judge.name}` was asked {asked} and answered `{judged.answer}`, which does not let the call go "
            "on. The call was not run. Change the call to fit, or hand the task to a person."
        )
        return Refusal(Code.JUDGE_REFUSED, text, "other_arguments", case.call, details=details)
    code = Code.JUDGE_REFUSED if judged.was_asked else Code.JUDGE_UNAVAILABLE
    text = (
        f"The judge `{judge.name}` must agree first, and {judged.problem}. The call was not run. Try again later, or hand "
        "the task to a person."
    )
    return Refusal(code, text, "after:5", case.call, details=details)
