"""The rule of `react_agent`: the next tool or the answer, in the three lines that the prompt asks for.

Its first call for a sum is written like code, `add(1, 2)`, until an observation says what is wrong with that.
"""

from __future__ import annotations

import json
import re

from ..messages import Asked
from ..reading import all_tagged
from .assistant import Talk, Wish, next_move


def think(asked: Asked) -> str:
    talk, corrected = read(asked)
    move = next_move(talk)
    if isinstance(move, str):
        return f"Thought: That is all I need.\nAnswer: {move}"
    first = move[0]
    thought = f"Thought: I need {first.tool}."
    arguments = json.loads(first.arguments)
    if first.tool in ("add", "multiply") and not talk.given and not corrected:
        return f"{thought}\nAction: {first.tool}({', '.join(map(str, arguments.values()))})"
    return f"{thought}\nAction: {first.tool}\nAction Input: {first.arguments}"


def read(asked: Asked) -> tuple[Talk, bool]:
    """Return what the messages tell, and whether an observation corrects what was written before."""
    says = [message for message in asked.messages if message.role == "user" and not message.content.startswith("Observation:")]
    since = asked.messages[asked.messages.index(says[-1]) + 1 :] if says else []
    given: dict[Wish, str] = {}
    corrected = False
    for said, seen in zip(since[::2], since[1::2], strict=False):
        observation = seen.content.removeprefix("Observation:").strip()
        if call := re.search(r"Action: (\w+)\nAction Input: (.+)", said.content):
            given[Wish(call[1], call[2])] = observation
        else:
            corrected = True
    tools = [
        {"name": part.attributes["name"], "description": part.text, "parameters": json.loads(arguments.text)}
        for part, arguments in zip(all_tagged(asked.text, "tool"), all_tagged(asked.text, "arguments"), strict=True)
    ]
    return Talk(says[-1].content if says else "", [message.content for message in says[:-1]], tools, given), corrected


RULES = {"think": think}
