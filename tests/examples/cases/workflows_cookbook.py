from __future__ import annotations

from tests.examples.cases import Ask, Case, changed, found, removed

OPENED = ("handbook/library.md", r"library of Karrow .* was opened in (\d+)")
ALMSHOUSE = ("handbook/almshouse.md", r"The almshouse of Karrow was founded in (\d+)")
ALL = {"flow": "all", "outcomes": [False, True, True], "seed": 22}

CASE = Case(
    steps=(
        *("generate", "answer", "improve"),
        *("setup", "query", "data"),
        *("take_input", "parse_query", "run_query"),
    ),
    asks=[
        Ask("When was the library opened?", found(*OPENED), changed(*OPENED, "1899"), removed(OPENED[0]), ALL),
        Ask("When was the almshouse founded?", found(*ALMSHOUSE), changed(*ALMSHOUSE, "1644"), removed(ALMSHOUSE[0]), ALL),
        Ask("When was the almshouse founded?", found(*ALMSHOUSE), changed(*ALMSHOUSE, "1644"), arguments=ALL | {"flow": "generator"}),
    ],
    calls={"workflows_cookbook.generate": "generate"},
    longest=260,  # six flows
)
