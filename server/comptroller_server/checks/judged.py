"""What a judge said of one call, as the case and the packets hold it."""

from __future__ import annotations

from dataclasses import dataclass

from comptroller_audit.vocabulary import JsonObject

__all__ = ["JudgeUsage", "Judged"]


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """Tokens that one question cost: as the endpoint reported them, or estimated from bytes."""

    input_tokens: int = 0
    output_tokens: int = 0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """One question asked. `answer` is one of the judge's words, None for anything else; `problem` says what.

    `prompt_sha256` is of the request as it was sent; `about` of what was asked, which a second question shares.
    """

    judge: str
    model: str
    answer: str | None
    is_allowed: bool
    problem: str
    was_asked: bool
    prompt_sha256: str
    about: str
    took_ms: int
    usage: JudgeUsage

    def as_json(self) -> JsonObject:
        """As packets hold it."""
        return {
            "judge": self.judge,
            "model": self.model,
            "answer": self.answer,
            "allowed": self.is_allowed,
            "problem": self.problem,
            "prompt_sha256": self.prompt_sha256,
            "took_ms": self.took_ms,
            "usage": {
                "input_tokens": self.usage.input_tokens,
                "output_tokens": self.usage.output_tokens,
                "estimated": self.usage.is_estimated,
            },
        }
