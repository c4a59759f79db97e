"""Rules of `multi_step_query_engine`: phrases as `the founder of X` are asked for, the innermost first, and replaced by the name found."""

from __future__ import annotations

import re

from ..messages import Asked
from ..reading import all_tagged, best_sentence, content_words, sentences, tagged

NOT_FOUND = "NOT FOUND"
_ASKED = {
    "founder": "Who founded {}?",
    "designer": "Who designed {}?",
    "builder": "Who built {}?",
    "teacher": "Who taught {}?",
}
_PHRASE = re.compile(rf"the ({'|'.join(_ASKED)}) of ((?:(?!\b(?:{'|'.join(_ASKED)})\b).)+?)(?= (?:come|born|live|spend|have|work)\b|[?,])")
_NAME = r"[A-Z]\w+ [A-Z]\w+"


def decompose(asked: Asked) -> dict[str, object]:
    question, steps = tagged(asked.text, "question"), all_tagged(asked.text, "step")
    for done in steps:
        name = name_in(tagged(done.text, "found"), tagged(done.text, "asked"))
        phrase = _PHRASE.search(question)
        if phrase is None or name is None:
            return {"done": True}
        question = question[: phrase.start()] + name + question[phrase.end() :]
    phrase = _PHRASE.search(question)
    return {"done": False, "question": _ASKED[phrase[1]].format(phrase[2]) if phrase else question}


def name_in(answer: str, asked: str) -> str | None:
    """Return the name that an answer gives: after `by`, else one that the question does not have."""
    if answer == NOT_FOUND:
        return None
    names = re.findall(rf"\bby (?:the \w+ )?({_NAME})", answer) + re.findall(_NAME, answer)
    return next((name for name in names if name not in asked), None)


def answer(asked: Asked) -> dict[str, object]:
    question, passages = tagged(asked.text, "question"), all_tagged(asked.text, "passage")
    found = best_sentence(re.sub(r"\bcome\b", "came", question), passages)
    verb = content_words(question.split()[1]) if question.startswith("Who ") else []
    if found is None or not set(verb) <= set(content_words(found[0])):  # who built it did not teach it
        return {"answer": NOT_FOUND, "passages": []}
    sentence, at = found
    return {"answer": with_name(sentence, sentences(passages[at].text)), "passages": [int(passages[at].attributes["id"])]}


def with_name(sentence: str, around: list[str]) -> str:
    """Return a sentence with the name of the sentence before it in the place of `She` or `He`."""
    before = around[: around.index(sentence)]
    name = next((found[0] for each in reversed(before) if (found := re.search(_NAME, each))), None)
    return re.sub(r"^(?:She|He)\b", name, sentence) if name else sentence


def synthesize(asked: Asked) -> str:
    steps = all_tagged(asked.text, "step")
    return tagged(steps[-1].text, "found") if steps else NOT_FOUND


RULES = {"decompose": decompose, "answer": answer, "synthesize": synthesize}
