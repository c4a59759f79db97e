from __future__ import annotations

from tests.examples.cases import Ask, Case

COINS = [50, 20, 20, 5, 2, 1] * 7

CASE = Case(
    steps=("open", "add", "close", "book"),
    asks=[
        Ask("", lambda data: f"total: {sum(COINS)}", arguments={"coins": COINS}),
        Ask("", lambda data: f"after a second run: {2 * sum(COINS)}", arguments={"coins": COINS}),
        Ask("", lambda data: f"{len(COINS)} entries, {sum(COINS)} cents", arguments={"coins": COINS}),
    ],
    needs_model=False,
)
