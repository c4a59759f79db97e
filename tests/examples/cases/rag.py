from __future__ import annotations

from tests.examples.cases import Ask, Case, changed, found, removed

STEPS = ("handbook/lighthouse.md", r"has (\d+) steps")
STALL = ("handbook/market.md", r"A stall at the market (costs \d+ marks)")

CASE = Case(
    steps=("ingest", "retrieve", "rerank", "synthesize"),
    asks=[
        Ask("How many steps does the lighthouse have?", found(*STEPS), changed(*STEPS, "9041"), removed(STEPS[0])),
        Ask("What is the price of a stall at the market?", found(*STALL), changed(*STALL, "costs 973 marks"), removed(STALL[0])),
    ],
    calls={"rag.rerank": "rerank", "rag.answer": "synthesize"},
)
