"""A Semantic Kernel agent with Comptroller as its plugin: it is refused, asks a person, and goes on the next day.

    COMPTROLLER_URL=... COMPTROLLER_TOKEN=... python semantic_kernel_refunds.py chat.json "Refund 30 USD of INVOICE"
    COMPTROLLER_URL=... COMPTROLLER_TOKEN=... python semantic_kernel_refunds.py chat.json "It is approved, go on"

The chat is kept in `chat.json`. pip install "semantic-kernel[mcp]". Where a model would stand is `Scripted`: it sees what
a model sees, the texts of the answers, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

from semantic_kernel.agents import ChatCompletionAgent, ChatHistoryAgentThread
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.connectors.mcp import MCPStreamableHttpPlugin
from semantic_kernel.contents import AuthorRole, ChatHistory, ChatMessageContent, FunctionCallContent

WHY = {"reason": "The customer was charged twice."}


def told_in(history: ChatHistory) -> list[str]:
    """The answers of tools, as the model gets them."""
    return [str(message.items[0].result) for message in history.messages if message.role == AuthorRole.TOOL]


class Scripted(ChatCompletionClientBase):
    """Forgets the amount, asks for too much, then for what was wanted; resumes when it is told to go on."""

    SUPPORTS_FUNCTION_CALLING: ClassVar[bool] = True

    async def _inner_get_chat_message_contents(self, chat_history: ChatHistory, settings: Any) -> list[Any]:
        said = [message for message in chat_history.messages if message.role == AuthorRole.USER]
        told = told_in(chat_history)
        waiting = re.search(r'resume_call` with \{"call": "([0-9a-f-]+)"', told[-1]) if told else None
        if waiting and chat_history.messages[-1].role == AuthorRole.USER:
            return [self._propose("resume_call", {"call": waiting[1]}, len(told))]
        if waiting or len(told) > 2:
            return [ChatMessageContent(role=AuthorRole.ASSISTANT, content=told[-1])]
        amount, invoice = re.findall(r"Refund (\d+) USD of (\S+)", said[0].content)[0]
        amounts = [{}, {"amount_usd": 4000}, {"amount_usd": int(amount)}]
        arguments = {
            "invoice_id": invoice,
            "reason_code": "duplicate_charge",
            "why": WHY,
            **amounts[len(told)],
        }
        return [self._propose("issue_refund", arguments, len(told))]

    def _propose(self, name: str, arguments: dict[str, Any], turn: int) -> ChatMessageContent:
        call = FunctionCallContent(
            id=f"turn-{turn}", plugin_name="comptroller", function_name=name, arguments=arguments
        )
        return ChatMessageContent(role=AuthorRole.ASSISTANT, items=[call])


async def played(history: ChatHistory, request: str) -> tuple[ChatHistory, str]:
    """The agent's answer, and the chat with it."""
    headers = {"Authorization": f"Bearer {os.environ['COMPTROLLER_TOKEN']}"}
    async with MCPStreamableHttpPlugin(
        name="comptroller", url=os.environ["COMPTROLLER_URL"], headers=headers, load_prompts=False
    ) as comptroller:
        agent = ChatCompletionAgent(
            service=Scripted(ai_model_id="scripted"), name="triage", plugins=[comptroller]
        )
        thread = ChatHistoryAgentThread(chat_history=history)
        answer = await agent.get_response(messages=request, thread=thread)
        return ChatHistory(messages=[message async for message in thread.get_messages()]), str(answer)


def main() -> None:
    kept, request = Path(sys.argv[1]), sys.argv[2]
    history = ChatHistory.restore_chat_history(kept.read_text()) if kept.exists() else ChatHistory()
    history, answer = asyncio.run(played(history, request))
    kept.write_text(history.serialize())
    print(json.dumps({"told": told_in(history), "answer": answer}))


if __name__ == "__main__":
    main()
