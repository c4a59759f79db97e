"""The rule of `citation_query_engine`: for each fact that is asked, the sentence that tells it and the number of its source."""

from __future__ import annotations

from ..messages import Asked
from ..reading import all_tagged, best_sentence, facts_asked, tagged


def cite(asked: Asked) -> str:
    sources = all_tagged(asked.text, "source")
    claims = []
    for fact in facts_asked(tagged(asked.text, "question")):
        if found := best_sentence(fact, sources):
            sentence, at = found
            claims.append(f"{sentence.rstrip('.')} [{sources[at].attributes['id']}].")
    return " ".join(claims) or "NO SOURCE HELPS."


RULES = {"cite": cite}
