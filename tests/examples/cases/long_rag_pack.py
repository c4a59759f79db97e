from __future__ import annotations

from tests.examples.cases import Ask, Case, changed, found, removed

QUESTION = "Who built the machinery of the lighthouse, and how many kilograms does the town clock weigh?"
BUILDER = ("handbook/clockmaker.md", r"(\w+ \w+ later built the machinery)")
WEIGHT = ("handbook/clockmaker.md", r"weighs (\d+) kilograms")
FARE = ("handbook/ferry.md", r"single ticket for the ferry (costs \d+ marks)")
DEFAULTS = {"top": 2, "no_grouping": False, "index": None}

CASE = Case(
    steps=("ingest", "retrieve", "make_query_engine", "query"),
    asks=[
        Ask(QUESTION, found(*BUILDER), arguments=DEFAULTS),
        Ask(QUESTION, found(*WEIGHT), changed(*WEIGHT, "9041"), arguments=DEFAULTS),
        Ask(QUESTION, found(*WEIGHT), changed(*WEIGHT, "9041"), arguments=DEFAULTS | {"top": 1}),
        Ask("How much is a single ticket for the ferry?", found(*FARE), changed(*FARE, "costs 613 marks"), removed(FARE[0]), DEFAULTS),
    ],
    calls={"long_rag_pack.answer": "query"},
)
