from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.examples.cases import Ask, Case, changed

BELL = ("budgets/2021.md", r"paid ([\d,]+) marks for a second bell")
YEARS = (2016, 2017, 2018, 2019, 2021, 2022, 2023)


def marks(data: Path, department: str, year: int) -> str:
    """Return what a department spent, from the table of a year's book; the example reads the prose."""
    [found] = re.findall(rf"\| {department} \| ([\d,]+) \|", (data / "budgets" / f"{year}.md").read_text(encoding="utf-8"))
    return str(found)


def spent(department: str, year: int) -> Callable[[Path], str]:
    return lambda data: f"spent {marks(data, department, year)} marks in {year}"


def spends(department: str, year: int, value: str) -> Callable[[Path], None]:
    return changed(f"budgets/{year}.md", rf"(?:\| {department} \| |{department} spent )([\d,]+)", value)


def bell(data: Path) -> str:
    [found] = re.findall(BELL[1], (data / BELL[0]).read_text(encoding="utf-8"))
    return f"paid {found} marks"


def without_books(data: Path) -> None:
    shutil.rmtree(data / "budgets")


CASE = Case(
    steps=("load", "chunk", "judge_query", "improve_query", "naive_rag", "high_top_k", "rerank", "judge"),
    asks=[
        Ask("How is the harbour doing?", spent("Harbour", 2023), spends("Harbour", 2023, "512,345"), without_books),
        Ask("How much did the Lighthouse spend in 2019?", spent("Lighthouse", 2019), spends("Lighthouse", 2019, "71,717"), without_books),
        Ask(
            "How much did the Harbour spend in 2016, 2017, 2018, 2019, 2021, 2022 and 2023?",
            spent("Harbour", 2018),
            spends("Harbour", 2018, "512,345"),
        ),
        Ask(
            "What did the second bell for the school cost in 2021?",
            bell,
            changed(*BELL, "93,751"),
            lambda data: (data / BELL[0]).unlink(),
        ),
    ],
    calls={
        "multi_strategy_workflow.judge": "judge_query",
        "multi_strategy_workflow.improve": "improve_query",
        "multi_strategy_workflow.answer": "naive_rag high_top_k rerank",
        "multi_strategy_workflow.rerank": "rerank",
        "multi_strategy_workflow.pick": "judge",
    },
    longest=250,
)
