"""The shape of what an upstream asked of the client in the middle of a call, inside the packets of calls (`shapes.py`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["QuestionView"]


class QuestionView(BaseModel):
    """One question. `message` and `url` are as they were shown; of the answer there is only what kind it was.

    `answer` is `none` where nobody answered in time, and `refused` where the question, or its answer, was stopped: `why`
    says so in words of ours.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    kind: Literal["elicitation_form", "elicitation_url", "sampling", "roots"]
    message: str | None = None
    url: str | None = None
    fields: list[str] = []
    why: str | None = None
    answer: Literal["accept", "decline", "cancel", "none", "refused"]
    waited_ms: Annotated[int, Field(ge=0)]
