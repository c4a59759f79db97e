from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.examples.cases import Ask, Case, changed


def crew(data: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((data / "crew.json").read_text(encoding="utf-8"))
    return records


def share_over_50(data: Path) -> str:
    records = crew(data)
    return f"{100 * sum(record['age'] > 50 for record in records) / len(records):.2f}"


def oldest(data: Path) -> str:
    return f"max age is {max(record['age'] for record in crew(data))}"


def forget(data: Path) -> None:
    (data / "crew.json").write_text("[]", encoding="utf-8")


OLDEST = r'"age": (67),'

CASE = Case(
    steps=("jsonalyzer", "synthesize"),
    asks=[
        Ask("What percentage of the crew is older than 50?", share_over_50, changed("crew.json", OLDEST, "17"), forget),
        Ask("What is the maximum age of the crew?", oldest, changed("crew.json", OLDEST, "91"), forget),
    ],
    calls={"jsonalyze_query_engine.sql": "jsonalyzer", "jsonalyze_query_engine.answer": "synthesize"},
)
