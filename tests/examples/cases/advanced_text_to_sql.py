from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tests.examples.cases import Ask, Case, changed


def table(data: Path, name: str) -> list[dict[str, str]]:
    with (data / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def vessel(data: Path, name: str) -> dict[str, str]:
    [found] = [row for row in table(data, "vessels") if row["name"] == name]
    return found


def fee(data: Path) -> str:
    [marks] = [row["fee_marks"] for row in table(data, "berths") if row["vessel_id"] == vessel(data, "Quiet Otter")["id"]]
    return f"fee marks {marks}"


def without(file: str, part: str) -> Any:
    """Return the change that takes out the lines of a table with this text; all but the heading for ""."""

    def change(data: Path) -> None:
        heading, *lines = (data / "tables" / file).read_text(encoding="utf-8").splitlines(keepends=True)
        (data / "tables" / file).write_text(heading + "".join(line for line in lines if part not in line), encoding="utf-8")

    return change


CASE = Case(
    steps=("list_tables", "describe_table", "collect_infos", "retrieve_tables", "generate_sql", "generate_response"),
    asks=[
        Ask(
            "Who is the owner of the Marrowbell?",
            lambda data: vessel(data, "M.V. Marrow-Bell")["owner"],
            changed("tables/vessels.csv", r"Marrow-Bell,.*,(.+)", "Orla Pym"),
            without("vessels.csv", "Marrow-Bell"),
        ),
        Ask(
            "What is the greatest length of a vessel?",
            lambda data: str(max(float(row["length_m"]) for row in table(data, "vessels"))),
            changed("tables/vessels.csv", r"Quiet Otter,ketch,([\d.]+)", "31.7"),
            without("vessels.csv", ""),
        ),
        Ask(
            "What is the fee for the berth of the vessel Quiet Otter?",
            fee,
            changed("tables/berths.csv", r"(?m)^2,east,2,(\d+)$", "977"),
            without("berths.csv", ",2,"),
        ),
    ],
    calls={
        "advanced_text_to_sql.table_info": "describe_table",
        "advanced_text_to_sql.sql": "generate_sql",
        "advanced_text_to_sql.answer": "generate_response",
    },
)
