from __future__ import annotations

from tests.examples.cases import Ask, Case

TEXT = "a lamp room full of gulls"

CASE = Case(
    steps=("ask", "finish"),
    asks=[
        Ask(TEXT, lambda data: f"{len(TEXT)} letters, after 3 attempts", arguments={"statuses": [503, 429]}),
        Ask(TEXT, lambda data: f"{len(TEXT)} letters, after 1 attempt", arguments={"statuses": []}),
        Ask(TEXT, lambda data: f"about {6 * len(TEXT.split())} letters", arguments={"statuses": [500]}),  # that is no reason to ask again
    ],
    needs_model=False,
)
