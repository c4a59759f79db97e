"""What goes to a model and comes back: messages, calls of tools, and the whole of one request as a rule sees it.

All of it is plain data, so that a conversation can stay in the store of a run and be saved with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel


class ToolCall(BaseModel):
    """A model's wish to have a tool called. `arguments` is JSON text as it came, which may be wrong."""

    id: str
    name: str
    arguments: str


class Message(BaseModel):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None  # of a tool's answer: which call it answers


Prompt: TypeAlias = str | Sequence[Message]


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def tool_result(call: ToolCall, text: str) -> Message:
    return Message(role="tool", content=text, tool_call_id=call.id)


def as_messages(prompt: Prompt) -> list[Message]:
    return [user(prompt)] if isinstance(prompt, str) else list(prompt)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the messages, and the tools the model may call (JSON specifications, as on the wire)."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()
    prompt_name: str = ""

    @property
    def text(self) -> str:
        """The text of all messages."""
        return "\n\n".join(message.content for message in self.messages)

    @property
    def last(self) -> str:
        """The text of the last message."""
        return self.messages[-1].content if self.messages else ""

    @property
    def question(self) -> str:
        """The text of the last message of the user."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def results(self) -> list[str]:
        """What tools answered since the last message of the user."""
        since = max((at for at, message in enumerate(self.messages) if message.role == "user"), default=0)
        return [message.content for message in self.messages[since:] if message.role == "tool"]


@dataclass(slots=True)
class Reply:
    """What came back, with what a span tells of it."""

    message: Message
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the answer shall come: in pieces, as JSON of a schema."""

    stream: bool = False
    schema: dict[str, Any] | None = field(default=None)
    schema_name: str = ""


def call_of(tool: str, **arguments: Any) -> ToolCall:
    """Return a call of a tool, for rules; its id is given when the rule has answered."""
    return ToolCall(id="", name=tool, arguments=json.dumps(arguments))
