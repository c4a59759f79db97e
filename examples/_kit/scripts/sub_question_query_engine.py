"""Rules of `sub_question_query_engine`: a question for each year; the first and the last number compared."""

from __future__ import annotations

import json
import re

from ..messages import Asked
from ..reading import all_tagged, numbers, tagged

_YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b")
_RANGE = re.compile(r"(?:from|between) (\d{4}) (?:to|until|and) (\d{4})|(?:in )?\b(\d{4}) ?[-–] ?(\d{4})\b")
_LIST = re.compile(rf"{_YEAR.pattern}(?:(?:, | and |, and ){_YEAR.pattern})*")
_CHANGE = re.compile(r"How (?:did|has|have) (.+?) (?:change|develop|grow)d?\b", re.IGNORECASE)


def split(asked: Asked) -> str:
    """Ask for each year of a range, or for each that is named; in a fence, as models do."""
    question = tagged(asked.text, "question")
    if span := _RANGE.search(question):
        first, last = (int(year) for year in span.groups() if year)
        years, plain = [str(year) for year in range(first, last + 1)], _RANGE.sub("in YEAR", question)
    else:
        years, plain = list(dict.fromkeys(_YEAR.findall(question))), _LIST.sub("YEAR", question)
    if changing := _CHANGE.search(question):
        plain = f"What was {changing[1]} in YEAR?"
    plain = re.sub(r"How much did (.+?) spend\b", r"How much was spent by \1", plain)
    return f"Here they are:\n```json\n{json.dumps({'questions': [plain.replace('YEAR', year) for year in years]})}\n```"


def combine(asked: Asked) -> str:
    parts = [part.text.partition("\n") for part in all_tagged(asked.text, "part")]
    known = [(question, answer) for question, _, answer in parts if "NOT FOUND" not in answer]
    missing = [_when(question) for question, _, answer in parts if "NOT FOUND" in answer]
    values = [(_when(question), value) for question, answer in known if (value := _value_in(answer, question)) is not None]
    if len(values) > 1:
        (first, before), (last, after) = values[0], values[-1]
        difference = f"{abs(after - before):,.10g} {'more' if after >= before else 'less'}"
        text = f"It was {before:,.10g} in {first} and {after:,.10g} in {last}, which is {difference}."
    else:
        text = " ".join(answer for _, answer in known) or "NOT FOUND."
    return text + (f" NOT FOUND for {', '.join(missing)}." if missing else "")


def _when(question: str) -> str:
    return next(iter(_YEAR.findall(question)), question)


def _value_in(answer: str, question: str) -> float | None:
    asked = set(numbers(question))
    return next((value for value in numbers(answer) if value not in asked), None)


RULES = {"split": split, "combine": combine}
