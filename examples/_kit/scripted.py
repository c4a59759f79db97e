"""The model without a network: each prompt has a rule, a function of the messages alone, so its answers follow the data."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias

from pydantic import BaseModel

from .calls import ModelCalls
from .messages import Asked, Message, Reply, Wanted
from .retrieve import hash_vector

Rule: TypeAlias = Callable[[Asked], "str | Message | BaseModel | dict[str, Any] | list[Any]"]
"""From what was asked to the answer: a text, a message (to call tools), or what becomes JSON."""


class NoRuleError(LookupError):
    """The scripted model was asked a prompt that nobody wrote a rule for."""


class ScriptedModel(ModelCalls):
    """Answers from the text of the prompt alone: the same prompt gets the same answer, on every machine.

    A prompt called `rag.answer` is answered by `RULES["answer"]` in `scripts/rag.py`, or by `rules["rag.answer"]`. A prompt
    without a name is one for a joke. It takes its time, a little for each word of the answer, so that a trace looks like
    that of a model.
    """

    name = "scripted"
    description = "scripted, offline (set TRACEDFLOW_LLM_BASE_URL, TRACEDFLOW_LLM_API_KEY and TRACEDFLOW_LLM_MODEL for a real one)"
    provider = "scripted"
    seconds_per_word = 0.003
    longest = 0.15  # seconds that an answer may take

    def __init__(self, rules: Mapping[str, Rule] | None = None) -> None:
        self.rules = rules or {}

    async def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
        message = answer_by_rule(asked, self.rules)
        pieces = in_pieces(message.content)
        pause = min(self.seconds_per_word, self.longest / max(1, len(pieces)))
        if not wanted.stream:
            await asyncio.sleep(pause * len(pieces))
        for piece in pieces if wanted.stream else ():
            await asyncio.sleep(pause)
            yield piece
        yield Reply(message, self.name, tokens_of(asked.messages), tokens_of([message]), "tool_calls" if message.tool_calls else "stop")

    async def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        return [hash_vector(text) for text in texts]


def answer_by_rule(asked: Asked, rules: Mapping[str, Rule]) -> Message:
    """Return what the rule of a prompt answers.

    Raises:
        NoRuleError: there is none.
    """
    answer = _rule_for(asked.prompt_name, rules)(asked)
    message = answer if isinstance(answer, Message) else Message(role="assistant", content=_as_text(answer))
    calls_before = sum(len(each.tool_calls) for each in asked.messages)
    calls = [
        call.model_copy(update={"id": f"call_{calls_before + number}"}) for number, call in enumerate(message.tool_calls, start=1)
    ]  # ids that differ within a conversation, and are the same in every run
    return message.model_copy(update={"tool_calls": calls})


def _rule_for(prompt_name: str, rules: Mapping[str, Rule]) -> Rule:
    if prompt_name in rules:
        return rules[prompt_name]
    example, _, prompt = (prompt_name or "jokes.any").partition(".")
    try:
        rule = import_module(f"examples._kit.scripts.{example}").RULES.get(prompt)
    except ModuleNotFoundError:
        rule = None
    if rule is None:
        raise NoRuleError(f"no rule for the prompt {prompt_name!r}: add RULES[{prompt!r}] to examples/_kit/scripts/{example}.py")
    found: Rule = rule
    return found


def _as_text(answer: object) -> str:
    match answer:
        case str():
            return answer
        case BaseModel():
            return answer.model_dump_json()
        case _:
            return json.dumps(answer)


def in_pieces(text: str) -> list[str]:
    """Return a text word by word, each with the space before it; joined they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


def tokens_of(messages: Sequence[Message]) -> int:
    """Return about how many tokens these are: words and punctuation marks."""
    return sum(len(re.findall(r"\w+|[^\w\s]", message.content + " ".join(c.arguments for c in message.tool_calls))) for message in messages)
