from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.examples.cases import Ask, Case, changed, found

TOTAL = r"(?:\| Total \| |Total spending of Karrow in 2023 was )([\d,]+)"  # the agents read the prose, the tests the table
RETIRED = ("budgets/2017.md", r"Of the staff, (\w+ \w+) retired in March after 43 years")


def total(data: Path, year: int) -> int:
    """Return the total of a year, from the table of its book."""
    [marks] = re.findall(r"\| Total \| ([\d,]+) \|", (data / "budgets" / f"{year}.md").read_text(encoding="utf-8"))
    return int(marks.replace(",", ""))


def growth(data: Path) -> str:
    return f"{total(data, 2023) - total(data, 2016):,} more"


def without_books(data: Path) -> None:
    shutil.rmtree(data / "budgets")


CASE = Case(
    steps=(
        "query",
        "sub_question",
        "new_user_msg",  # from here to the answer these are the agents
        "prepare_chat_history",
        "handle_llm_input",
        "handle_tool_calls",
        "combine_answers",
    ),
    asks=[
        Ask(
            "How did the total spending of Karrow change from 2016 to 2023?",
            growth,
            changed("budgets/2023.md", TOTAL, "1,903,511"),
            without_books,
        ),
        Ask("Who retired after 43 years of service?", found(*RETIRED), changed(*RETIRED, "Orla Pym"), without_books),
    ],
    calls={
        "sub_question_query_engine.split": "query",
        "react_agent.think": "handle_llm_input",
        "sub_question_query_engine.combine": "combine_answers",
    },
)
