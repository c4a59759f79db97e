from __future__ import annotations

from tests.examples.cases import Ask, Case

TEXT = "seals sleep on sunlit boulders at low tide"

CASE = Case(
    steps=("draft", "review", "shorten", "publish"),
    asks=[
        Ask(TEXT, lambda data: TEXT.rpartition(" at ")[0], arguments={"room": 32, "ask": False}),
        Ask(TEXT, lambda data: TEXT, arguments={"room": 99, "ask": False}),
    ],
    needs_model=False,
)
