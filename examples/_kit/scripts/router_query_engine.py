"""Rules of `router_query_engine`: tools whose descriptions share words with a part of the question; what each engine says."""

from __future__ import annotations

import re
from typing import Any

from ..messages import Asked
from ..reading import Part, all_tagged, best_sentence, facts_asked, sentences, tagged
from ..retrieve import words_of

_EVERYWHERE = {"a", "an", "the", "of", "is", "or", "and", "in", "it", "one", "does", "about", "what"}


def select(asked: Asked) -> dict[str, Any]:
    tools, question = all_tagged(asked.text, "tool"), tagged(asked.text, "question")
    chosen: dict[str, str] = {}
    for part in facts_asked(question):
        tool, shared = max(((tool, _shared(part, tool)) for tool in tools), key=lambda pair: (len(pair[1]), "in doubt" in pair[0].text))
        chosen.setdefault(tool.attributes["id"], f"it is for {' '.join(shared)}" if shared else "nothing else fits")
    selections = [{"index": int(number), "reason": reason} for number, reason in sorted(chosen.items())]
    return {"selections": selections[:1] if tagged(asked.text, "choose") == "one" else selections}


def _shared(question: str, tool: Part) -> list[str]:
    told = set(words_of(tool.text)) - _EVERYWHERE
    return [word for word in words_of(question) if word in told]


def leads(asked: Asked) -> str:
    return " ".join(sentences(part.text)[0] for part in all_tagged(asked.text, "passage"))


def fact(asked: Asked) -> str:
    passages = all_tagged(asked.text, "passage")
    found = [best_sentence(part, passages, 0.6) for part in facts_asked(tagged(asked.text, "question"))]
    return _distinct([each[0] for each in found if each is not None])


def mentions(asked: Asked) -> str:
    wanted = tagged(asked.text, "question")
    everything = [sentence for part in all_tagged(asked.text, "passage") for sentence in sentences(part.text)]
    return _distinct([each for each in everything if re.search(rf"\b{re.escape(wanted)}\b", each, re.IGNORECASE)])


def merge(asked: Asked) -> str:
    return _distinct([sentence for part in all_tagged(asked.text, "answer") for sentence in sentences(part.text)])


def _distinct(found: list[str]) -> str:
    return " ".join(dict.fromkeys(found)) or "NOT FOUND"


RULES = {"select": select, "leads": leads, "fact": fact, "mentions": mentions, "merge": merge}
