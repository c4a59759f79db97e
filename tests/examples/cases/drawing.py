from __future__ import annotations

from tests.examples.cases import Ask, Case

LINES = "Rope walk and chandlery / Ferry / Smokehouse of the cooper"

CASE = Case(
    steps=("split", "fit", "join"),
    asks=[
        # Each line is fitted once, and once more for each word that is cut off: 12 letters leave "Rope walk", "Ferry", "Smokehouse".
        Ask(LINES, lambda data: f"Line ×{len(LINES.split('/'))}", arguments={"width": 12, "folder": None}),
    ],
    needs_model=False,
)
