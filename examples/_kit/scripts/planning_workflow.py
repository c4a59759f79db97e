"""Rules of `planning_workflow`: an item for each year, though the first plan forgets the last one; the change between two years."""

from __future__ import annotations

import re

from ..messages import Asked
from ..reading import all_tagged, best_sentence, tagged

NOT_FOUND = "NOT FOUND"


def plan(asked: Asked) -> dict[str, list[dict[str, str]]]:
    question, results = tagged(asked.text, "question"), all_tagged(asked.text, "result")
    wanted = years_wanted(asked)
    missing = [year for year in wanted if f"budget_{year}" not in {result.attributes["tool"] for result in results}]
    if not results and len(missing) > 1:
        missing.pop()  # as one forgets things in a first plan
    return {"items": [{"name": f"budget_{year}", "query": query_for(question, year)} for year in missing]}


def decide(asked: Asked) -> dict[str, str]:
    there = {result.attributes["tool"] for result in all_tagged(asked.text, "result")}
    return {"verdict": "answer" if all(f"budget_{year}" in there for year in years_wanted(asked)) else "plan"}


def answer(asked: Asked) -> str:
    question = tagged(asked.text, "question")
    if re.search(r"\bhow many (budget )?(books|years)\b", question, re.IGNORECASE):
        return f"There are {len(all_tagged(asked.text, 'tool'))} budget books."
    years = years_in(question)
    sums = [marks_of(asked, year) for year in years]
    if not sums or None in sums:
        return NOT_FOUND
    if len(sums) == 1:
        return f"In {years[0]} it was {sums[0]:,} marks."
    first, last = sums[0] or 0, sums[-1] or 0
    verb = "rose" if last >= first else "fell"
    change = f"{abs(last - first):,} marks, {100 * abs(last - first) / first:.1f} percent"
    return f"From {years[0]} to {years[-1]} it {verb} by {change}: from {first:,} to {last:,} marks."


def extract(asked: Asked) -> str:
    question, passages = tagged(asked.text, "question").replace(" of Karrow", ""), all_tagged(asked.text, "passage")
    found = [best_sentence(each, passages) for each in (question, question.replace("spending", "spent"))]
    told = [each[0] for each in found if each]
    return next((sentence for sentence in told if " marks" in sentence), told[0] if told else NOT_FOUND)


def years_in(question: str) -> list[str]:
    return re.findall(r"\b(?:19|20)\d\d\b", question)


def years_wanted(asked: Asked) -> list[str]:
    """Return the years that the question names; of a range, all that have a tool."""
    question = tagged(asked.text, "question")
    years = years_in(question)
    tools = [tool.attributes["name"].rpartition("_")[2] for tool in all_tagged(asked.text, "tool")]
    if len(years) == 2 and re.search(rf"{years[0]} (to|until|through) {years[1]}", question):
        return [year for year in tools if years[0] <= year <= years[1]]
    return years


def query_for(question: str, year: str) -> str:
    subject = re.search(r"\b(?:did|was|is) (.+?)(?: change| in \d| from \d|\?)", question)
    return f"What was {subject[1] if subject else question} in {year}?"


def marks_of(asked: Asked, year: str) -> int | None:
    """Return the sum that a result tells of a year."""
    for result in all_tagged(asked.text, "result"):
        found = re.search(r"([\d,]+) marks", result.text.partition("</asked>")[2])
        if found and result.attributes["tool"] == f"budget_{year}":
            return int(found[1].replace(",", ""))
    return None


RULES = {"plan": plan, "decide": decide, "answer": answer, "extract": extract}
