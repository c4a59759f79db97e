"""Rules of `multi_strategy_workflow`: a question is vague, better with a part and years; sentences that say it; the fullest answer.

Given many passages, the rule for one fact takes the first sentence that sounds like it, as models do that lose the thread.
"""

from __future__ import annotations

import re

from ..messages import Asked
from ..reading import Part, all_tagged, content_words, numbers, overlap, sentences, tagged

_YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b")
_YEARS = re.compile(rf"{_YEAR.pattern}(?:(?:, | and |, and )(?:in )?{_YEAR.pattern})*")
_MONEY = re.compile(r"\b(?:how much|cost|price|spend|spent)\b", re.IGNORECASE)
_MANY, _SOUNDS_LIKE_IT, _SAYS_IT = 10, 0.6, 0.5


def judge(asked: Asked) -> dict[str, str]:
    known = set(content_words(tagged(asked.text, "question"))) & set(content_words(tagged(asked.text, "summary")))
    if len(known) < 2:
        return {"verdict": "bad", "reason": f"of what the texts have it names {', '.join(known) or 'nothing'}"}
    return {"verdict": "good", "reason": f"it names {', '.join(sorted(known))}"}


def improve(asked: Asked) -> str:
    """Ask for what a part spent, in the first year and in the last."""
    summary, question = tagged(asked.text, "summary"), tagged(asked.text, "question")
    texts, _, parts = summary.partition("\nParts: ")
    words, years = set(content_words(question)), sorted(set(_YEAR.findall(texts)))
    named = [part for part in parts.split("; ") if words & set(content_words(part))]
    if not named or not years:
        return question
    return f"How much did {named[0]} spend in {' and in '.join(dict.fromkeys((years[0], years[-1])))}?"


def answer(asked: Asked) -> str:
    passages = all_tagged(asked.text, "passage")
    facts = _facts_in(tagged(asked.text, "question"))
    skims = len(passages) > _MANY and len(facts) == 1
    found = [_said(fact, passages, skims) for fact in facts]
    return " ".join(dict.fromkeys(filter(None, found))) or "NOT FOUND"


def _facts_in(question: str) -> list[str]:
    """Return the question for each of its years."""
    question = re.sub(r"\bspend\b", "spent", question)  # as the books write
    years = _YEAR.findall(question)
    return [_YEARS.sub(year, question) for year in years] if len(years) > 1 else [question]


def _said(fact: str, passages: list[Part], skims: bool) -> str:
    scored = [(overlap(fact, f"{part.attributes['title']} {each}"), each, part) for part in passages for each in sentences(part.text)]
    if skims:
        scored = [triple for triple in scored if triple[0] >= _SOUNDS_LIKE_IT][:1]
    fitting = [(score, each) for score, each, part in scored if score >= _SAYS_IT and _fits(fact, each, part)]
    return max(fitting, key=lambda pair: pair[0], default=(0.0, ""))[1]


def _fits(fact: str, sentence: str, part: Part) -> bool:
    """Return whether a sentence is of the years that are asked, and has a figure if one is asked for."""
    of_the_years = set(_YEAR.findall(fact)) <= set(_YEAR.findall(f"{part.attributes['title']} {sentence}"))
    figure = re.search(r"\d marks", sentence) if _MONEY.search(fact) else _has_figure(sentence) or "how many" not in fact.lower()
    return of_the_years and overlap(fact, sentence) > 0 and bool(figure)


def _has_figure(text: str) -> bool:
    return bool(numbers(_YEAR.sub("", text)))


def rerank(asked: Asked) -> str:
    """Put the passages in front that say it with a figure."""
    passages, facts = all_tagged(asked.text, "passage"), _facts_in(tagged(asked.text, "question"))
    scores = {}
    for part in passages:
        read = [(sentence, f"{part.attributes['title']} {sentence}") for sentence in sentences(part.text)]
        scores[part.attributes["id"]] = max((overlap(f, titled) + _fits(f, s, part) for f in facts for s, titled in read), default=0.0)
    return ", ".join(sorted(scores, key=lambda number: -scores[number])[:5])


def pick(asked: Asked) -> str:
    """Take the response with most of the words of the question, and a figure; the first of those that are as good."""
    wanted = set(content_words(re.sub(r"\bspend\b", "spent", tagged(asked.text, "question"))))
    responses = [part for part in all_tagged(asked.text, "response") if "NOT FOUND" not in part.text]
    scores = {part.attributes["id"]: len(wanted & set(content_words(part.text))) + 2 * _has_figure(part.text) for part in responses}
    return max(scores, key=lambda number: scores[number], default="0")


RULES = {"judge": judge, "improve": improve, "answer": answer, "rerank": rerank, "pick": pick}
