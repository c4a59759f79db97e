"""Jokes and their critique, made from the words of the prompt."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256

from ..messages import Asked


def answer(asked: Asked) -> str:
    prompt = asked.last
    if found := re.search(r"\bjoke about (.+?)\.?$", prompt, re.DOTALL):
        return joke(found[1].strip())
    if found := re.search(r"\bfollowing joke: (.+)", prompt, re.DOTALL):
        return critique(found[1].strip())
    return f"The scripted model has no rule for a prompt of {len(prompt.split())} words that begins with {prompt[:40]!r}."


_JOKES = {
    "pirate": "Why do pirates make poor bookkeepers? They bury the balance.",
    "cat": "Why did the cat get the night shift? It had already slept through the day one.",
    "compiler": "Why did the compiler leave the party early? Nobody there had declared anything.",
    "event loop": "How many event loops does it take to change a light bulb? Await.",
}
_PATTERNS = (
    "Why did {topic} refuse to be in this joke? The rehearsals clashed with the punchline.",
    "I bought a book about {topic}. The first chapter was an apology for the second.",
    "What do {topic} and my diet have in common? Both were announced on Monday and missing on Tuesday.",
    "My doctor told me to think less about {topic}. Now I think about {topic} in Latin.",
)


def joke(topic: str) -> str:
    for known, joke in _JOKES.items():
        if known in topic.lower():
            return joke
    return _PATTERNS[sha256(topic.encode()).digest()[0] % len(_PATTERNS)].format(topic=topic)


def critique(joke: str) -> str:
    setup, punchline = _halves(joke)
    words = re.findall(r"[\w']+", joke.lower())
    repeated = [word for word, count in Counter(words).items() if count > 1 and len(word) > 4]
    form = "a question and its answer" if "?" in joke else "a statement and its turn"
    share = len(punchline) / max(1, len(setup) + len(punchline))
    length = "short, as it should be" if share < 0.45 else "as long as what it answers, so trim it"
    echo = f"It says {repeated[0]!r} more than once, and the echo carries the turn. " if repeated else "No word of weight comes twice. "
    ending = punchline[-1].strip(".!?'\"") if punchline else "nothing"
    score = max(1, round(10 - 12 * abs(share - 0.35) - len(words) / 20))
    return (
        f'"{joke}" is {form}: '
        f"{len(setup)} words of setup, {len(punchline)} of punchline. The punchline is {length}. "
        f"{echo}It ends on {ending!r}, where the laugh has to be. Verdict: {score} of 10."
    )


def _halves(joke: str) -> tuple[list[str], list[str]]:
    """Return the words of the setup and of the punchline: what stands after the last sentence but one."""
    sentences = re.split(r"(?<=[.?!])\s+", joke)
    return " ".join(sentences[:-1]).split(), sentences[-1].split()


RULES = {"any": answer}
