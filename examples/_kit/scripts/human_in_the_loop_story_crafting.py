"""Rules of `human_in_the_loop_story_crafting`: places, finds and people of the prompt, picked by the hero and by what was chosen."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from ..messages import Asked
from ..reading import all_tagged, tagged


class Tale:
    """What a prompt tells of the story so far."""

    def __init__(self, asked: Asked) -> None:
        self.world: dict[str, list[str]] = json.loads(tagged(asked.text, "world"))
        self.hero = tagged(asked.text, "hero")
        self.choices = [part.text for part in all_tagged(asked.text, "choice")]
        self.start = self.world["places"][len(self.hero) % len(self.world["places"])]

    def pick(self, kind: str, salt: int = 0) -> str:
        known = self.world[kind]
        return known[(sha256("|".join([self.hero, *self.choices]).encode()).digest()[0] + salt) % len(known)]


def segment(asked: Asked) -> dict[str, Any]:
    tale = Tale(asked)
    place, find, person = tale.pick("places"), tale.pick("finds"), tale.pick("people")
    if tale.choices:
        begin = f"{tale.hero} had to {tale.choices[-1]}, and did."
        plot = f"{begin} That led to {place}, where {person} stood with {find}."
    else:
        plot = f"On the first day in town, {tale.hero} came to {tale.start}, and on the ground lay {find}."
    moves = [tale.pick("moves", salt).format(place=tale.pick("places", salt + 1), find=find, person=person) for salt in range(3)]
    return {"plot": plot, "actions": moves}


def ending(asked: Asked) -> dict[str, Any]:
    tale = Tale(asked)
    done = f"In the end {tale.hero} managed to {tale.choices[-1]}." if tale.choices else f"Nothing ever happened to {tale.hero}."
    return {"plot": f"{done} It was told for years in {tale.start}, and {tale.pick('people')} told it best."}


RULES = {"segment": segment, "ending": ending}
