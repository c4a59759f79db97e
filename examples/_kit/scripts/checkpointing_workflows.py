"""Rules of `checkpointing_workflows`: a joke that counts one further than a fact does, and what is to be said about it."""

from __future__ import annotations

from ..messages import Asked
from ..reading import numbers, sentences, tagged
from . import jokes


def joke(asked: Asked) -> str:
    topic, facts = tagged(asked.text, "topic"), sentences(tagged(asked.text, "facts"))
    with_numbers = [fact for fact in facts if numbers(fact) and numbers(fact)[-1] < 1000]  # a larger one is a year
    if not with_numbers:
        return f"{facts[0]} Nobody has ever counted it." if facts else f"Nobody knows a thing about the {topic}, so everybody tells it."
    fact = max(with_numbers, key=lambda each: numbers(each)[-1])
    return f"{fact} Who counts {numbers(fact)[-1] + 1:,.0f} has been at the tavern before."


def critique(asked: Asked) -> str:
    return jokes.critique(tagged(asked.text, "joke"))


RULES = {"joke": joke, "critique": critique}
