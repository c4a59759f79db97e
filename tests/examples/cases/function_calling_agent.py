from __future__ import annotations

import re
from pathlib import Path

from tests.examples.cases import Ask, Case, changed, found, removed

SUM = "What is (2123 + 2321) * (300 + 12)?"
ROOMS = ("handbook/almshouse.md", r"almshouse has (\d+) rooms")
FOUNDER = ("handbook/library.md", r"library was (founded by \w+ \w+)")


def worked_out(question: str) -> str:
    a, b, c, d = map(int, re.findall(r"\d+", question))
    return str((a + b) * (c + d))


def rooms_and_900(data: Path) -> str:
    return str(900 + int(found(*ROOMS)(data)))


CASE = Case(
    steps=("prepare_chat_history", "handle_llm_input", "handle_tool_calls"),
    asks=[
        Ask(SUM, lambda data: worked_out(SUM)),
        Ask("How many rooms does the almshouse have? Add 900 to that.", rooms_and_900, changed(*ROOMS, "8041"), removed(ROOMS[0])),
        Ask("Who founded the library?", found(*FOUNDER), changed(*FOUNDER, "founded by Orla Pym"), removed(FOUNDER[0])),
    ],
    calls={"function_calling_agent.think": "handle_llm_input"},
)
