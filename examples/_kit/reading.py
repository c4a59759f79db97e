"""How rules read a prompt: its tagged parts, its sentences, and which of them answers a question. No rule needs more.

Prompts of the examples put data between tags, `<question>...</question>`, because models keep to them well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .retrieve import STOP_WORDS

_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Dr|St|No)\.$")


@dataclass(frozen=True, slots=True)
class Part:
    """A tagged part of a prompt: `<source id="2">text</source>`."""

    text: str
    attributes: dict[str, str]


def all_tagged(text: str, tag: str) -> list[Part]:
    """Return every part between `<tag ...>` and `</tag>`."""
    found = re.finditer(rf"<{tag}((?: [^>]*)?)>(.*?)</{tag}>", text, re.DOTALL)
    return [Part(match[2].strip(), dict(_ATTRIBUTE.findall(match[1]))) for match in found]


def tagged(text: str, tag: str) -> str:
    """Return the text of the last such part, and "" if there is none."""
    parts = all_tagged(text, tag)
    return parts[-1].text if parts else ""


def sentences(text: str) -> list[str]:
    """Return the sentences and the lines of a text, without headings and rules of tables."""
    found: list[str] = []
    for line in text.splitlines():
        line = line.strip()  # noqa: PLW2901
        if not line or line.startswith("#") or re.fullmatch(r"[|\s:-]+", line):
            continue
        for piece in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])", line):
            if found and _ABBREVIATION.search(found[-1]):
                found[-1] += f" {piece}"
            else:
                found.append(piece.strip())
    return found


def stem(word: str) -> str:
    """Return a word without its ending, roughly: `lamps` and `lamp`, `founded` and `founding` are the same."""
    for ending in ("ings", "ing", "ies", "ers", "er", "ors", "or", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


_SAME = {"pric": "cost", "fee": "cost", "charg": "cost", "begin": "start", "establish": "found"}


def content_words(text: str) -> list[str]:
    """Return the stems of the words that carry the meaning, in order, each once."""
    words = re.findall(r"\w+", re.sub(r"['’]s\b", "", text.lower()))
    return list(dict.fromkeys(_SAME.get(stem(word), stem(word)) for word in words if word not in STOP_WORDS))


def numbers(text: str) -> list[float]:
    """Return the numbers in a text; thousands may be grouped by commas."""
    return [float(found.replace(",", "")) for found in re.findall(r"-?\d+(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?", text)]


def overlap(question: str, text: str, among: Sequence[str] = ()) -> float:
    """Return how much of the question's content is in a text, 0 to 1; words that are rare in `among` weigh more."""
    asked = content_words(question)
    if not asked:
        return 0.0
    others = [set(content_words(other)) for other in among]
    weights = {word: math.log(1 + (len(others) + 1) / (1 + sum(word in other for other in others))) for word in asked}
    there = set(content_words(text))
    return sum(weight for word, weight in weights.items() if word in there) / sum(weights.values())


def best_sentence(question: str, passages: Sequence[Part | str], least: float = 0.5) -> tuple[str, int] | None:
    """Return the sentence that answers a question, and the number of its passage (from 0); None if none covers enough of it.

    A sentence is read with its heading: words that only the passage's `title` has count a little less. A question for a
    number (`when`, `how many`) wants a sentence with one, and one for a person (`who`) a name that the question does not have.
    """
    parts = [part if isinstance(part, Part) else Part(part, {}) for part in passages]
    found = [(sentence, at) for at, part in enumerate(parts) for sentence in sentences(part.text)]
    among = [sentence for sentence, _ in found]
    best: tuple[float, str, int] | None = None
    for sentence, at in found:
        alone = overlap(question, sentence, among)
        together = overlap(question, f"{parts[at].attributes.get('title', '')} {sentence}", among)
        score = (alone + 0.8 * (together - alone)) if alone > 0 else 0.0
        if score >= least and (best is None or score + _fits(question, sentence) > best[0]):
            best = (score + _fits(question, sentence), sentence, at)
    return None if best is None else (best[1], best[2])


def _fits(question: str, sentence: str) -> float:
    asked = question.lower()
    if re.search(r"\b(how much|price|fee|cost)\b", asked):
        return 0.25 if re.search(r"\bcosts?\b.*\d", sentence) else 0.1 if re.search(r"\d", sentence) else 0.0
    if re.search(r"\b(when|how (many|long|high|old|far|often)|which year|what year)\b", asked):
        return 0.2 if re.search(r"\d", sentence) else 0.0
    if re.search(r"\bwho(se|m)?\b", asked):
        names = re.findall(r"(?<=\w )[A-Z][a-z]+", sentence)
        return 0.2 if any(name.lower() not in asked for name in names) else 0.0
    return 0.0


def facts_asked(question: str) -> list[str]:
    """Return the questions in a question: `When was it built, and who built it?` has two."""
    return [part.strip() for part in re.split(r",? and (?=(?:who|when|where|what|which|how)\b)", question, flags=re.IGNORECASE)]
