from __future__ import annotations

from tests.examples.cases import Ask, Case, changed, found, removed

BOTH = "How many steps does the lighthouse have, and where is Jorun Vask mentioned?"
STEPS = ("handbook/lighthouse.md", r"has (\d+) steps")
TAUGHT = ("handbook/clockmaker.md", r"She taught (\w+ apprentices), among them Jorun Vask")
STALL = ("handbook/market.md", r"A stall at the market (costs \d+ marks)")
OPENED = ("handbook/library.md", r"library of Karrow .* was opened in (\d+)")
GONE = removed("handbook/lighthouse.md", "handbook/clockmaker.md")

CASE = Case(
    steps=("selector", "generate_responses", "synthesize_responses"),
    asks=[
        Ask(BOTH, found(*STEPS), changed(*STEPS, "9041"), GONE, {"single": False}),
        Ask(BOTH, found(*TAUGHT), changed(*TAUGHT, "fifty apprentices"), GONE, {"single": False}),
        Ask("Give me a summary of the market.", found(*STALL), changed(*STALL, "costs 973 marks"), removed(STALL[0]), {"single": False}),
        Ask("When was the library opened?", found(*OPENED), changed(*OPENED, "1899"), removed(OPENED[0]), {"single": True}),
    ],
    calls={
        "router_query_engine.select": "selector",
        "router_query_engine.fact": "generate_responses",
        "router_query_engine.mentions": "generate_responses",
        "router_query_engine.merge": "synthesize_responses",
    },
)
