from __future__ import annotations

import re
from pathlib import Path

from tests.examples.cases import Ask, Case, changed, removed

FLAGS = {"store": None, "resume": False, "kill_before": None}


def largest(data: Path, file: str) -> str:
    """Return one more than the largest number below 1,000 that ends the numbers of a sentence in a file."""
    text = re.sub(r"^#.*$", "", (data / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [re.findall(r"\d[\d,]*(?:\.\d+)?", each) for each in re.split(r"(?<=[.!?])\s+", text)]
    last = [float(each[-1].replace(",", "")) for each in found if each]
    return f"Who counts {max(number for number in last if number < 1000) + 1:,.0f}"


CASE = Case(
    steps=("generate_joke", "critique_joke"),
    asks=[
        Ask(
            "lighthouse",
            lambda data: largest(data, "handbook/lighthouse.md"),
            changed("handbook/lighthouse.md", r"has (\d+) steps", "904"),
            removed("handbook/lighthouse.md"),
            FLAGS,
        ),
        Ask(
            "the ferries",
            lambda data: largest(data, "handbook/ferry.md"),
            changed("handbook/ferry.md", r"In winter the ferry leaves every (\d+) minutes", "97"),
            removed("handbook/ferry.md"),
            FLAGS,
        ),
    ],
    calls={"checkpointing_workflows.joke": "generate_joke", "checkpointing_workflows.critique": "critique_joke"},
)
