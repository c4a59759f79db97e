"""The rule of `long_rag_pack`: for each fact that is asked, the sentence of a text that tells it."""

from __future__ import annotations

from ..messages import Asked
from ..reading import all_tagged, best_sentence, facts_asked, tagged


def answer(asked: Asked) -> str:
    texts = all_tagged(asked.text, "text")
    found = [best_sentence(fact, texts) for fact in facts_asked(tagged(asked.text, "question"))]
    return " ".join(each[0] if each else "NOT FOUND." for each in found)


RULES = {"answer": answer}
