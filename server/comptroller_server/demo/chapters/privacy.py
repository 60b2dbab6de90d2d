"""The model reads tokens in place of personal data; a reply still goes to the address behind one."""

from __future__ import annotations

from comptroller_server.demo.setups import FULL
from comptroller_server.demo.story import Story

__all__ = ["play"]


async def play(story: Story) -> None:
    stage = story.stage
    server = await stage.served(FULL)
    ticket = stage.invoices(2_000)[0].ticket
    ((address,),) = stage.sql(
        "SELECT c.email FROM customers c JOIN tickets t ON t.customer_id = c.id WHERE t.id = ?", ticket
    )
    async with server.agent("letter-bot") as agent:
        story.scene(
            "`safety.pii_redaction: [email, card_last4]`: the model reads a token instead of the address."
        )
        read = await agent.call("get_ticket", ticket_id=ticket)
        token = str(read.structured["customer_email"])
        story.say(f"  get_ticket {ticket}\n    customer_email: {token}\n    call {read.call}")
        story.calls[f"{story.chapter}.ticket"] = read.call
        body = "We have looked into it, and write again tomorrow."
        draft = await story.read(
            agent, "draft", "draft_reply", ticket_id=ticket, body=body, why={"reason": "They asked."}
        )
        reply = str(draft.structured["reply_id"])
        sent = await story.read(
            agent, "sent", "send_reply", reply_id=reply, to=token, why={"reason": "They asked."}
        )
        seen = "".join(f"{answer.text}{answer.structured}{answer.meta}" for answer in (read, draft, sent))
        story.must(str(address) not in seen, "the model saw the address nowhere")
        ((went_to,),) = stage.sql("SELECT sent_to FROM replies WHERE id = ?", reply)
        story.must(went_to == address, "the desk sent the mail to the address behind the token")
        shown = await stage.command("why", sent.call)
        story.must(str(address) not in shown, "`comptroller why` shows the token too")
        story.quote(f"why {sent.call}", shown, 6)
