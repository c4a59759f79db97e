"""Rules of `corrective_rag_pack`: a passage helps if it has half of what is asked; a query is that, and the names around it."""

from __future__ import annotations

import re

from ..messages import Asked
from ..reading import all_tagged, best_sentence, overlap, sentences, tagged
from ..retrieve import STOP_WORDS


def grade(asked: Asked) -> str:
    [passage] = all_tagged(asked.text, "passage")
    return "Yes." if overlap(tagged(asked.text, "question"), f"{passage.attributes['title']} {passage.text}") >= 0.5 else "No."


def rewrite(asked: Asked) -> str:
    """Return the words of the question that carry it, and the names that the passages have beside them."""
    question = tagged(asked.text, "question")
    words = [word for word in re.findall(r"\w+", question) if word.lower() not in STOP_WORDS]
    near = [each for part in all_tagged(asked.text, "passage") for each in sentences(part.text) if overlap(question, each) >= 0.4]
    names = [name for each in near for name in re.findall(r"(?<=\w )[A-Z][a-z]+", each)]
    return " ".join(dict.fromkeys([*words, *names]))


def answer(asked: Asked) -> str:
    found = best_sentence(tagged(asked.text, "question"), all_tagged(asked.text, "passage"))
    return found[0] if found else "NOT FOUND"


RULES = {"grade": grade, "rewrite": rewrite, "answer": answer}
