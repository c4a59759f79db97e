from __future__ import annotations

import re
from pathlib import Path

from tests.examples.cases import Ask, Case, changed, found, removed

TOTAL_2016 = ("budgets/2016.md", r"Total spending of Karrow in 2016 was ([\d,]+) marks")
TOTAL_2023 = ("budgets/2023.md", r"Total spending of Karrow in 2023 was ([\d,]+) marks")
INCOME_2018 = ("budgets/2018.md", r"Income in 2018 was ([\d,]+) marks")


def marks(text: str) -> int:
    return int(text.replace(",", ""))


def change(data: Path) -> str:
    return f"{marks(found(*TOTAL_2023)(data)) - marks(found(*TOTAL_2016)(data)):,}"


def percentage(data: Path) -> str:
    return f"{100 * (marks(found(*TOTAL_2023)(data)) / marks(found(*TOTAL_2016)(data)) - 1):.1f} percent"


def books(data: Path) -> str:
    return f"{len([path for path in (data / 'budgets').iterdir() if re.fullmatch(r'20..[.]md', path.name)])} budget books"


CHANGE = "How did the total spending of Karrow change from 2016 to 2023?"
CASE = Case(
    steps=("planning_step", "execute_item", "aggregate_results"),
    asks=[
        Ask(CHANGE, change, changed(*TOTAL_2023, "2,345,670"), removed(TOTAL_2016[0])),
        Ask(CHANGE, percentage, changed(*TOTAL_2016, "1,234,560"), removed(TOTAL_2023[0])),
        Ask("What was the income of Karrow in 2018?", found(*INCOME_2018), changed(*INCOME_2018, "2,345,670"), removed(INCOME_2018[0])),
        Ask("How many budget books are there?", books, removed("budgets/2019.md")),
    ],
    calls={
        "planning_workflow.plan": "planning_step",
        "planning_workflow.decide": "planning_step",
        "planning_workflow.answer": "planning_step",
        "planning_workflow.extract": "execute_item",
    },
)
