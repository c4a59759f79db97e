from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from tests.examples.cases import Ask, Case, Truth, removed


def slice_digest(index: int, items: int) -> Truth:
    def truth(data: Path) -> str:
        text = (data / "crew.json").read_text(encoding="utf-8")
        first, last = (len(text) * at // items for at in (index, index + 1))
        return sha256(text[first:last].encode()).hexdigest()

    return truth


def sign(data: Path) -> None:
    with (data / "crew.json").open("a", encoding="utf-8") as file:
        file.write("\n")


def ask(index: int, items: int, workers: int) -> Ask:
    arguments = {"items": items, "workers": workers, "file": None}
    return Ask("", slice_digest(index, items), sign, removed("crew.json"), arguments)


CASE = Case(steps=("start", "process_data", "combine_results"), asks=[ask(2, 3, 3), ask(4, 5, 1), ask(6, 7, 9)], needs_model=False)
