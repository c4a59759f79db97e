from __future__ import annotations

from tests.examples.cases import Ask, Case

TEXT = "grey seals sleep on sunlit boulders"


def counted(text: str) -> str:
    return f"{len(text.split())} words of {sum(map(len, text.split()))} letters"


CASE = Case(
    steps=("count_words", "count_letters", "write", "split", "measure", "gather", "read", "ask", "check"),
    asks=[
        Ask(TEXT, lambda data: counted(TEXT), arguments={"answers": "no,2"}),
        Ask(TEXT, lambda data: f"longest: {max(TEXT.split(), key=len)}", arguments={"answers": ""}),
        Ask(TEXT, lambda data: f"chosen: {TEXT.split()[4]}", arguments={"answers": "9,5"}),
    ],
    needs_model=False,
)
