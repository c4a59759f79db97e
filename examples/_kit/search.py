"""A web search: without a web, a folder of pages, one file each; with one, a SearXNG server that `TRACEDFLOW_SEARCH_URL` names."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .retrieve import WordIndex, read_folder

URL = "TRACEDFLOW_SEARCH_URL"


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    url: str
    text: str


class SearchUnavailableError(OSError):
    """The search cannot be reached, or refuses: what a retry policy waits for."""


class Search(Protocol):
    """Whatever finds pages."""

    async def search(self, query: str, top: int = 5) -> list[Page]:
        """Return the best pages, the best first.

        Raises:
            SearchUnavailableError: it cannot be reached, or refuses.
        """
        ...


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


class SearxSearch:
    """Asks a SearXNG server; its settings have to allow the format `json`. A page's text is what the server shows of it."""

    timeout = 10.0  # seconds

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def search(self, query: str, top: int = 5) -> list[Page]:
        return (await asyncio.to_thread(self._found, query))[:top]

    def _found(self, query: str) -> list[Page]:
        asked = urllib.parse.urlencode({"q": query, "format": "json"})
        try:
            with urllib.request.urlopen(f"{self._url}/search?{asked}", timeout=self.timeout) as answer:
                results = json.load(answer)["results"]
        except urllib.error.HTTPError as error:
            error.close()
            raise SearchUnavailableError(f"the search at {self._url} answered {error.code}") from None
        except (OSError, ValueError, KeyError) as error:
            raise SearchUnavailableError(f"the search at {self._url} cannot be reached, or gives no JSON: {error}") from None
        return [Page(each.get("title", ""), each["url"], each.get("content") or "") for each in results]


def choose_search(folder: str | Path, environment: Mapping[str, str] = os.environ) -> Search:
    """Return the server that the variable names, and the folder's pages unless it is set."""
    url = environment.get(URL, "")
    if url and not url.startswith(("http://", "https://")):
        sys.exit(f"{URL} must be an address of a web server, not {url!r}")
    return SearxSearch(url) if url else LocalSearch(folder)
