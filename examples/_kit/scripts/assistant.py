"""What the rules of the agents share: which calls of tools a question needs next, and what to say when it needs no more.

It reads sums ("What is (3 + 4) * 5?"), questions for a fact, a fact with a sum on it ("How many rooms has it? Multiply that by
3."), and talk about names. As models do, it takes for granted that there are tools `subtract` and `divide`, until it is told
that there are none.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..reading import all_tagged, best_sentence, numbers, overlap

NOT_FOUND = "NOT FOUND"
_YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b")
TOOLS = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that the plan wants. `arguments` is JSON text, so that a wish can be looked up among those that were granted."""

    tool: str
    arguments: str


@dataclass
class Talk:
    """What a prompt tells: the question, what was said before, the tools, and what each call gave so far."""

    question: str
    earlier: Sequence[str] = ()
    tools: Sequence[Mapping[str, Any]] = ()  # name, description, parameters
    given: Mapping[Wish, str] = field(default_factory=dict)


def next_move(talk: Talk) -> list[Wish] | str:
    """Return the calls that can be made now, or what to say."""
    if found := re.search(r"\bmy name is (\w+)", talk.question, re.IGNORECASE):
        return f"Nice to meet you, {found[1]}."
    if re.search(r"\bwhat is my name\b", talk.question, re.IGNORECASE):
        told = re.findall(r"\bmy name is (\w+)", "\n".join(talk.earlier), re.IGNORECASE)
        return f"Your name is {told[-1]}." if told else "You have not told me your name."
    if (sum_ := sum_in(talk.question)) is not None:
        return _say(_work_out(sum_, talk))
    return _with_fact(talk)


def _with_fact(talk: Talk) -> list[Wish] | str:
    fact, _, order = talk.question.partition("?")
    wishes = [_search(tool, fact) for tool in _search_tools(talk.tools, fact)]
    if missing := [wish for wish in wishes if wish not in talk.given]:
        return missing
    found = best_sentence(fact, [passage for wish in wishes for passage in all_tagged(talk.given[wish], "passage")])
    if found is None:
        return NOT_FOUND
    if change := re.search(r"\b(multiply|add)\b.*?(\d+)", order, re.IGNORECASE):
        sign = "*" if change[1].lower() == "multiply" else "+"
        return _say(_work_out(_parsed(f"{_asked_number(fact, found[0])} {sign} {change[2]}"), talk))
    return found[0]


def _search(tool: Mapping[str, Any], fact: str) -> Wish:
    return Wish(tool["name"], json.dumps({next(iter(tool["parameters"]["properties"])): f"{fact.strip()}?"}))


def _search_tools(tools: Sequence[Mapping[str, Any]], fact: str) -> list[Mapping[str, Any]]:
    """Return the tool whose description fits the question best, of those that take a text; of tools for years, those of its years.

    Where a question names no year, those are all of them, and where it names one that has no tool, none.
    """
    texts = [t for t in tools if [p.get("type") for p in t["parameters"].get("properties", {}).values()] == ["string"]]
    best = max(texts, key=lambda tool: overlap(fact, f"{tool['name'].replace('_', ' ')} {tool['description']}"), default=None)
    if best is None or not _YEAR.search(best["description"]):
        return [] if best is None else [best]
    asked = set(_YEAR.findall(fact))
    return [tool for tool in texts if (years := set(_YEAR.findall(tool["description"]))) and (not asked or asked & years)]


def _asked_number(fact: str, sentence: str) -> int:
    """Return the number that `how many X` asks for: the one before X, else the last of the sentence."""
    asked = re.search(r"\bhow many (\w+)", fact, re.IGNORECASE)
    found = re.search(rf"(\d[\d,]*) {asked[1]}", sentence) if asked else None
    return int(found[1].replace(",", "")) if found else int((numbers(sentence) or [0])[-1])


def sum_in(question: str) -> ast.expr | None:
    """Return the sum that is written in a question, as Python reads it."""
    for text in re.findall(r"[(\d][\d\s().+*×/-]*[\d)]", question):
        if (sum_ := _parsed(text.replace("×", "*"))) is not None:
            return sum_
    return None


def _parsed(text: str) -> ast.expr | None:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
    return tree if isinstance(tree, ast.BinOp) else None


def _work_out(node: ast.expr | None, talk: Talk) -> list[Wish] | str:
    """Return the value of a sum as text, as far as tools gave it, else the calls that can be made now."""
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in TOOLS:
            sides = [_work_out(left, talk), _work_out(right, talk)]
            if wishes := [wish for side in sides if isinstance(side, list) for wish in side]:
                return list(dict.fromkeys(wishes))
            return _granted(Wish(TOOLS[type(op)], _arguments(*map(str, sides))), talk)
        case _:
            return NOT_FOUND


def _granted(wish: Wish, talk: Talk) -> list[Wish] | str:
    said = talk.given.get(wish)
    if said is None:
        return [wish]
    if f"no tool '{wish.tool}'" in said and wish.tool == "subtract":
        one, other = json.loads(wish.arguments).values()
        return _granted(Wish("add", _arguments(str(one), str(-other))), talk)
    return said


def _arguments(a: str, b: str) -> str:
    return json.dumps({"a": _number(a), "b": _number(b)})


def _number(text: str) -> float | int | str:
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except ValueError:
        return text  # an error of a tool: whoever reads the call is told


def _say(outcome: list[Wish] | str) -> list[Wish] | str:
    if isinstance(outcome, list):
        return outcome
    return f"The result is {outcome}." if isinstance(_number(outcome), int | float) else f"I cannot work it out: {outcome}"
