"""The search of the web, with a folder and with a server in its place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from examples._kit.cli import CORPUS
from examples._kit.search import URL, LocalSearch, SearchUnavailableError, SearxSearch, choose_search


class Searx(ThreadingHTTPServer):
    """Answers as SearXNG does; `status` is what it says to the next requests."""

    daemon_threads = True
    status = 200
    asked: list[dict[str, list[str]]]


class Handler(BaseHTTPRequestHandler):
    server: Searx

    def do_GET(self) -> None:
        self.server.asked.append(parse_qs(urlsplit(self.path).query))
        results = [{"title": "The mill", "url": f"https://m.example/{n}", "content": None if n else "It burned."} for n in range(9)]
        body = json.dumps({"results": results}).encode()
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Searx]:
    with Searx(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_folder_is_searched_unless_a_server_is_named() -> None:
    assert isinstance(choose_search(CORPUS / "web", {}), LocalSearch)
    assert isinstance(choose_search(CORPUS / "web", {URL: "https://searx.example"}), SearxSearch)
    with pytest.raises(SystemExit, match=URL):
        choose_search(CORPUS / "web", {URL: "file:///etc/passwd"})


async def test_a_server_is_asked_for_json_and_the_best_pages_are_kept(server: Searx) -> None:
    search = choose_search(CORPUS / "web", {URL: f"http://127.0.0.1:{server.server_port}/"})
    pages = await search.search("old mill & weir", 3)
    assert server.asked == [{"q": ["old mill & weir"], "format": ["json"]}]
    assert [page.url for page in pages] == ["https://m.example/0", "https://m.example/1", "https://m.example/2"]
    assert (pages[0].title, pages[0].text, pages[1].text) == ("The mill", "It burned.", "")


@pytest.mark.parametrize("status", [429, 500])
async def test_a_server_that_refuses_is_an_error_that_a_retry_policy_knows(server: Searx, status: int) -> None:
    server.status = status
    with pytest.raises(SearchUnavailableError, match=str(status)) as caught:
        await SearxSearch(f"http://127.0.0.1:{server.server_port}").search("mill")
    assert isinstance(caught.value, OSError)


async def test_a_server_that_is_away_is_one_too(server: Searx) -> None:
    server.server_close()
    with pytest.raises(SearchUnavailableError, match="cannot be reached"):
        await SearxSearch(f"http://127.0.0.1:{server.server_port}").search("mill")
