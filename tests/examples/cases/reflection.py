from __future__ import annotations

from tests.examples.cases import Ask, Case, changed, found, removed

KETCH = ("register.txt", r"The ketch Marrow Bell was measured at (\d+\.\d+) metres")
TUG = ("register.txt", r"The tug Bramble, (\d+\.\d+) metres")
FLAGS = {"passage": None, "tries": 3}

CASE = Case(
    steps=("extract", "validate"),
    asks=[
        Ask("12", found(*KETCH), changed(*KETCH, "15.7"), removed(KETCH[0]), FLAGS),
        Ask("page 13", found(*TUG), changed(*TUG, "20.1"), removed(TUG[0]), FLAGS),
    ],
    calls={"reflection.extract": "extract"},
)
