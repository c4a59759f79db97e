"""The rule of `function_calling_agent`: all calls that can be made now, in one turn, or the answer from what the tools gave."""

from __future__ import annotations

from ..messages import Asked, Message, ToolCall
from .assistant import Talk, Wish, next_move


def think(asked: Asked) -> Message | str:
    move = next_move(read(asked))
    if isinstance(move, str):
        return move
    calls = [ToolCall(id="", name=wish.tool, arguments=wish.arguments) for wish in move]
    return Message(role="assistant", content=f"I need {' and '.join(call.name for call in calls)}.", tool_calls=calls)


def read(asked: Asked) -> Talk:
    says = [message.content for message in asked.messages if message.role == "user"]
    calls = {call.id: Wish(call.name, call.arguments) for message in asked.messages for call in message.tool_calls}
    since = max((at for at, message in enumerate(asked.messages) if message.role == "user"), default=0)
    given = {calls[m.tool_call_id]: m.content for m in asked.messages[since:] if m.role == "tool" and m.tool_call_id in calls}
    tools = [tool["function"] for tool in asked.tools]
    return Talk(says[-1] if says else "", says[:-1], tools, given)


RULES = {"think": think}
