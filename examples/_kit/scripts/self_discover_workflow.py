"""Rules of `self_discover_workflow`, for tasks about things that somebody has, gets and gives away.

Each rule works with what the one before it wrote: what one of them forgets is not in the result.
"""

from __future__ import annotations

import json
import re

from ..messages import Asked
from ..reading import all_tagged, content_words, tagged

NOT_FOUND = "NOT FOUND"
_MORE = ("has", "have", "buys", "buy", "finds", "find", "gets", "get", "picks", "pick", "for")
_LESS = ("gives", "give", "swaps", "swap", "throws away", "throw away", "sells", "sell", "eats", "eat", "loses", "lose")
_CHANGE = re.compile(rf"\b(?:({'|'.join((*_MORE, *_LESS))}|and) )(\d+) (?:more )?(\w+)")


def select(asked: Asked) -> str:
    task = set(content_words(tagged(asked.text, "task")))
    modules = [part.text for part in all_tagged(asked.text, "module")]
    return "\n".join([modules[0], *(text for text in modules[1:] if task & set(content_words(text)))])


def adapt(asked: Asked) -> str:
    """Write the changes that the task names behind the way of thinking that asks for them."""
    verb, changes = "", []
    for found in _CHANGE.finditer(tagged(asked.text, "task")):
        verb = found[1] if found[1] != "and" else verb  # "buys 3 plums and 5 pears"
        changes.append(f"{verb} {found[2]} {found[3]}")
    lines = tagged(asked.text, "selected").splitlines()
    return "\n".join(f"{line} Here: {'; '.join(changes)}." if "each change" in line else line for line in lines)


def implement(asked: Asked) -> dict[str, list[dict[str, object]]]:
    return {
        "steps": [
            {"what": found[0], "item": found[3], "change": int(found[2]) * (-1 if found[1] in _LESS else 1)}
            for found in _CHANGE.finditer(tagged(asked.text, "adapted"))
        ]
    }


def solve(asked: Asked) -> str:
    left: dict[str, int] = {}
    for step in json.loads(tagged(asked.text, "structure"))["steps"]:
        left[step["item"]] = left.get(step["item"], 0) + step["change"]
    return f"In the end there are {' and '.join(f'{count} {item}' for item, count in left.items())}." if left else NOT_FOUND


RULES = {"select": select, "adapt": adapt, "implement": implement, "solve": solve}
