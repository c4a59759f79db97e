from __future__ import annotations

import json
from pathlib import Path

from tests.examples.cases import Ask, Case, Change, Truth, removed

CHOICES = ["1", "2", "3"]


def start_of(hero: str) -> Truth:
    """The first place, which the number of letters in the name of the hero gives."""
    return lambda data: str(places(data)[len(hero) % len(places(data))])


def moved(hero: str, place: str) -> Change:
    def change(data: Path) -> None:
        world = json.loads((data / "story.json").read_text(encoding="utf-8"))
        world["places"][len(hero) % len(world["places"])] = place
        (data / "story.json").write_text(json.dumps(world), encoding="utf-8")

    return change


def places(data: Path) -> list[str]:
    found: list[str] = json.loads((data / "story.json").read_text(encoding="utf-8"))["places"]
    return found


def ask(hero: str) -> Ask:
    flags = {"choices": CHOICES, "ask": False, "pause_to": None, "resume": None}
    return Ask(hero, start_of(hero), moved(hero, "the attic of the old mint"), removed("story.json"), flags)


CASE = Case(
    steps=("create_segment", "prompt_human"),
    asks=[ask("Marit"), ask("Oskar Bell")],
    longest=240,  # half of it is for the terminal
    calls={
        "human_in_the_loop_story_crafting.segment": "create_segment",
        "human_in_the_loop_story_crafting.ending": "create_segment",
    },
)
