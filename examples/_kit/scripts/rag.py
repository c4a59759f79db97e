"""Rules of `rag`: how well each passage covers the question; the sentence that answers it."""

from __future__ import annotations

from ..messages import Asked
from ..reading import all_tagged, best_sentence, overlap, tagged


def rerank(asked: Asked) -> str:
    question, passages = tagged(asked.text, "question"), all_tagged(asked.text, "passage")
    texts = [f"{part.attributes['title']} {part.text}" for part in passages]
    scores = [(round(10 * overlap(question, text, texts)), part.attributes["id"]) for text, part in zip(texts, passages, strict=True)]
    best = sorted((pair for pair in scores if pair[0] >= 3), key=lambda pair: -pair[0])
    return "\n".join(f"Doc: {number}, Relevance: {score}" for score, number in best) or "None of them helps."


def answer(asked: Asked) -> str:
    found = best_sentence(tagged(asked.text, "question"), all_tagged(asked.text, "passage"))
    return found[0] if found else "NOT FOUND"


RULES = {"rerank": rerank, "answer": answer}
