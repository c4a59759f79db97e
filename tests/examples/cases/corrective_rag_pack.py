from __future__ import annotations

from tests.examples.cases import Ask, Case, changed, found, removed

WHALE = ("web/whale.md", r"whale was (named \w+)")
RUNNER = ("web/marathon.md", r"(won by \w+ \w+)")
STEPS = ("handbook/lighthouse.md", r"has (\d+) steps")
WITH_SEARCH = {"no_search": False}

CASE = Case(
    steps=("ingest", "prepare", "retrieve", "eval_relevance", "extract", "transform_query", "search", "query_result"),
    asks=[
        Ask(
            "What was the name of the whale in the inner basin?",
            found(*WHALE),
            changed(*WHALE, "named Umberta"),
            removed(WHALE[0]),
            WITH_SEARCH,
        ),
        Ask("Who won the sound marathon?", found(*RUNNER), changed(*RUNNER, "won by Orla Pym"), removed(RUNNER[0]), WITH_SEARCH),
        Ask("How many steps does the lighthouse have?", found(*STEPS), changed(*STEPS, "9041"), removed(STEPS[0]), WITH_SEARCH),
    ],
    calls={
        "corrective_rag_pack.grade": "eval_relevance",
        "corrective_rag_pack.rewrite": "transform_query",
        "corrective_rag_pack.answer": "query_result",
    },
)
