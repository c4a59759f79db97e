"""Rules of `reflection`: one that makes two mistakes, and corrects each when it is told of it; one that never does."""

from __future__ import annotations

import json
import re
from typing import Any

from ..messages import Asked
from ..reading import tagged

_BOAT = re.compile(r"[Tt]he ([a-z]+) ([A-Z]\w+(?: [A-Z]\w+)*)[^.]*?(\d+(?:\.\d+)?) metres.*?number (\d+)", re.DOTALL)


def extract(asked: Asked) -> str:
    problem, found = tagged(asked.text, "problem"), boats(tagged(asked.text, "passage"))
    if re.search(r"^boats\.\d+\.length:", problem, re.MULTILINE):
        return json.dumps({"boats": found})
    for boat in found:
        boat["length"] = f"{boat['length']} metres"  # no number, as the schema wants it
    answer = json.dumps({"boats": found})
    return answer if "JSON" in problem else f"These are the boats:\n{answer}\nIs there another page?"


def stubborn(asked: Asked) -> str:
    return f"I see {len(boats(tagged(asked.text, 'passage')))} boats, and that is all I say."


def boats(passage: str) -> list[dict[str, Any]]:
    found = _BOAT.findall(passage)
    return [{"kind": kind, "name": name, "length": float(length), "number": int(number)} for kind, name, length, number in found]


RULES = {"extract": extract}
