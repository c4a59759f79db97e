from __future__ import annotations

from tests.examples.cases import Ask, Case

TEXT = "grey seals sleep on sunlit boulders"
FLAGS = {"serve": False, "host": "127.0.0.1", "port": 0}

CASE = Case(
    steps=("ask", "check"),
    asks=[Ask(TEXT, lambda data: TEXT.split()[5], arguments={**FLAGS, "answers": "none,6"})],
    needs_model=False,
    longest=320,
)
