from __future__ import annotations

from tests.examples.cases import Ask, Case

CASE = Case(
    steps=("tell", "judge", "file"),
    asks=[Ask("heron postcards", lambda data: "heron postcards", arguments={"out": None})],
    calls={"": "tell judge"},
)
