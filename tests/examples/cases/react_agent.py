from __future__ import annotations

import re
from pathlib import Path

from tests.examples.cases import Ask, Case, changed, found, removed

SUM = "What is (2123 + 2321) * 312?"
STEPS = ("handbook/lighthouse.md", r"has (\d+) steps")
STALL = ("handbook/market.md", r"A stall at the market (costs \d+ marks)")


def worked_out(question: str) -> str:
    a, b, c = map(int, re.findall(r"\d+", question))
    return str((a + b) * c)


def twelve_times_the_steps(data: Path) -> str:
    return str(12 * int(found(*STEPS)(data)))


CASE = Case(
    steps=("new_user_msg", "prepare_chat_history", "handle_llm_input", "handle_tool_calls"),
    asks=[
        Ask(SUM, lambda data: worked_out(SUM)),
        Ask(
            "How many steps does the lighthouse have? Multiply that by 12.",
            twelve_times_the_steps,
            changed(*STEPS, "9041"),
            removed(STEPS[0]),
        ),
        Ask("What is the price of a stall at the market?", found(*STALL), changed(*STALL, "costs 973 marks"), removed(STALL[0])),
    ],
    calls={"react_agent.think": "handle_llm_input"},
)
