from __future__ import annotations

import json

from examples.resources import FILE
from tests.examples.cases import Ask, Case

COPIES = {book["title"]: book["copies"] for book in json.loads(FILE.read_text(encoding="utf-8"))["library"]["books"]}
MOST = max(COPIES, key=COPIES.__getitem__)

CASE = Case(
    steps=("find", "lend"),
    asks=[
        Ask("", lambda data: f"{MOST}: yours; {COPIES[MOST] - 1} left.", arguments={"words": [MOST]}),
        Ask("", lambda data: f"{MOST}: all copies are out.", arguments={"words": [MOST] * (COPIES[MOST] + 1)}),
    ],
    needs_model=False,
)
