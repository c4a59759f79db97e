from __future__ import annotations

import re
from pathlib import Path

from tests.examples.cases import Ask, Case, changed, found, removed

WORKSHOP = ("handbook/clockmaker.md", r"had her workshop on (\w+ \w+)")
FOUNDER = ("handbook/ferry.md", r"founded in 1887 by (\w+ \w+)")
STEPS = ("handbook/lighthouse.md", r"(has \d+ steps)")


def where_the_founder_came_from(data: Path) -> str:
    founder = found(*FOUNDER)(data)
    handbook = "\n".join(path.read_text(encoding="utf-8") for path in sorted((data / "handbook").glob("*.md")))
    [place] = re.findall(rf"{founder} came (?:to Karrow )?from the (\w+ of \w+)", handbook)
    return str(place)


CASE = Case(
    steps=("decompose", "answer", "synthesize"),
    asks=[
        Ask(
            "On which street was the workshop of the teacher of the builder of the machinery of the lighthouse?",
            found(*WORKSHOP),
            changed(*WORKSHOP, "Gull Row"),
            removed(WORKSHOP[0]),
        ),
        Ask(
            "Where did the founder of the ferry company come from?",
            where_the_founder_came_from,
            changed(*FOUNDER, "Berit Solange"),  # another person, of whom another page tells where she came from
            removed(FOUNDER[0]),
        ),
        Ask("How many steps does the lighthouse have?", found(*STEPS), changed(*STEPS, "has 9041 steps"), removed(STEPS[0])),
    ],
    calls={
        "multi_step_query_engine.decompose": "decompose",
        "multi_step_query_engine.answer": "answer",
        "multi_step_query_engine.synthesize": "synthesize",
    },
)
