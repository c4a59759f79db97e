"""Rules of `workflows_cookbook`: the sentence that answers the question."""

from __future__ import annotations

from .rag import answer

RULES = {"generate": answer}
