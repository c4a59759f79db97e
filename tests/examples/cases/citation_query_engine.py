from __future__ import annotations

from tests.examples.cases import Ask, Case, changed, found, removed

BUILT = ("handbook/lighthouse.md", r"lighthouse of Karrow was built in (\d+)")
FOUNDER = ("handbook/library.md", r"library was (founded by \w+ \w+)")
FARE = ("handbook/ferry.md", r"single ticket for the ferry (costs \d+ marks)")

CASE = Case(
    steps=("retrieve", "create_citation_nodes", "synthesize"),
    asks=[
        Ask("When was the lighthouse built, and who founded the library?", found(*BUILT), changed(*BUILT, "1904")),
        Ask("When was the lighthouse built, and who founded the library?", found(*FOUNDER), changed(*FOUNDER, "founded by Orla Pym")),
        Ask("How much is a single ticket for the ferry?", found(*FARE), changed(*FARE, "costs 613 marks"), removed(FARE[0])),
    ],
    calls={"citation_query_engine.cite": "synthesize"},
)
