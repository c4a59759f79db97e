"""A web search without a web: a folder of pages, one file each. A real one needs nothing more than the same `search`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from .retrieve import WordIndex, read_folder


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    url: str
    text: str


class LocalSearch:
    """Finds pages by their words. `queries` is what was searched for, in order."""

    def __init__(self, folder: str | Path, *, pause: float = 0.01) -> None:
        self._index = WordIndex(read_folder(folder, size=400))
        self._pause = pause  # seconds, as a network takes
        self.queries: list[str] = []

    async def search(self, query: str, top: int = 5) -> list[Page]:
        self.queries.append(query)
        await asyncio.sleep(self._pause)
        hits = self._index.search(query, top)
        return [Page(hit.chunk.title, f"https://web.example/{hit.chunk.source.removesuffix('.md')}", hit.chunk.text) for hit in hits]
