"""The page of a run: what is in it, that nothing leaves it, and that a real browser shows it and does what a reader asks."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from tracedflow.events import HumanResponseEvent
from tracedflow.inspect.recorded import why
from tracedflow.inspect.trace_file import ABANDONED, RecordedLog, RecordedRun
from tracedflow.records import RunningStep
from tracedflow.report import MOST_BYTES, render, write_report
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CANARY = "canary-7f3a"


class Item(Event):
    n: int = 0
    secret: str = CANARY


class Done(Event):
    n: int = 0


class Answer(HumanResponseEvent):
    pass


class Pipeline(Workflow):
    """Fans out, retries, joins, waits for somebody."""

    @step
    async def spread(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(ev.get("count", 5))]

    @step(retry_policy=retry_policy(stop=stop_after_attempt(3), wait=wait_fixed(0.001)))
    async def work(self, ctx: Context, ev: Item) -> Done:
        if ev.n == 1 and ctx.retry_info().retry_number < 2:
            raise ConnectionError(CANARY)
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, ev: list[Done]) -> StopEvent:
        ctx.measure("tokens", 12, "token")
        await ctx.wait_for_event(Answer)
        return StopEvent(result=CANARY)


class Breaks(Pipeline):
    @step
    async def join(self, ev: list[Done]) -> StopEvent:
        raise ValueError(CANARY)


async def ended(flow: Workflow, **arguments: Any) -> WorkflowHandler[Any]:
    handler = flow.run(**arguments)
    while not handler.done():
        if handler.why().waits:
            handler.ctx.send_event(Answer())
        await asyncio.sleep(0)
    handler.exception()
    return handler


def visible(page: str) -> str:
    """Return the text of a page, without its script, styles and tags."""
    return re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style)[^>]*>.*?</\1>", "", page))


async def test_a_page_answers_why_and_shows_path_waterfall_graph_steps_attempts_and_joins() -> None:
    page = render(await ended(Pipeline()))
    assert re.findall(r'<section id="([a-z-]+)"', page) == ["why", "critical-path", "waterfall", "graph", "steps", "attempts", "joins"]
    text = visible(page)
    assert "of Pipeline completed in" in text
    assert "`work` was tried again 2 times" in text.replace("&#x27;", "'")
    assert "tokens 12 token" in text
    assert "complete" in text
    assert page.count('<div class="row ') + page.count('<div class="row"') == 7  # spread, five of work, join


async def test_a_failed_run_says_what_failed_and_where() -> None:
    page = render(await ended(Breaks()))
    text = visible(page)
    assert "of Breaks failed after" in text
    assert "ValueError" in text
    assert 'class="verdict bad">error<' in page
    assert 'class="row path failed"' in page


@pytest.mark.parametrize("flow", [Pipeline, Breaks])
async def test_no_content_of_an_event_or_an_error_is_on_the_page(flow: type[Workflow]) -> None:
    assert CANARY not in render(await ended(flow()))


async def test_a_page_is_one_file_with_no_address_and_a_policy_that_forbids_to_load_anything() -> None:
    page = render(await ended(Pipeline()))
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)


async def test_a_run_of_thousands_of_attempts_stays_under_the_limit_and_counts_what_it_leaves_out() -> None:
    page = render(await ended(Pipeline(), count=3000))
    assert len(page.encode()) <= MOST_BYTES
    assert re.search(r"\d+ shorter step executions are not shown", page)
    assert re.search(r"\d+ more attempts are not shown", page)
    assert "`work` was tried again 2 times" in visible(page)


def test_text_from_outside_is_escaped() -> None:
    nasty = "<script>alert(1)</script>"
    run = RecordedRun(
        workflow=nasty, run_id=nasty, started=1.0, ended=2.0, outcome="error", error=nasty, tags={nasty: nasty},
        inputs={1: nasty}, outputs={1: nasty}, logs=[RecordedLog(at=1.5, level="INFO", text=nasty, step=nasty)],
    )  # fmt: skip
    page = render(run)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 6


def test_a_run_whose_process_was_killed_shows_what_was_open() -> None:
    live = [RunningStep(step=f"s{n}", execution=n, attempt=2, since=float(n), event_type="Item") for n in range(1, 9)]
    run = RecordedRun(workflow="F", run_id="r", started=1.0, outcome=ABANDONED, unfinished=live)
    told = why(run)
    assert "its process was killed, or it still runs" in told
    assert "Step `s8` was at it for 8.00 s (Item, attempt 2)." in told
    assert "And 3 more step executions were live." in told
    assert "No attempt of a step is on record." in told
    assert "no end on record" in render(run)


async def test_a_live_run_has_a_page_too() -> None:
    handler = Pipeline().run()
    while not handler.why().waits:
        await asyncio.sleep(0)
    assert "it still runs" in visible(render(handler))
    await handler.cancel_run()


async def test_a_report_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    handler = await ended(Pipeline())
    path = write_report(handler, tmp_path / "run.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(OSError, match="nowhere"):
        write_report(handler, tmp_path / "nowhere" / "run.html")


DRIVER = """<script>
const seen = {};
const fall = document.querySelector(".fall");
const press = (key) => fall.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const before = fall.scrollWidth;
press("+"); press("+"); seen.zoomed = fall.scrollWidth > before * 2;
press("0"); seen.fits = fall.scrollWidth === before;
document.querySelector("[data-do=theme]").click(); seen.theme = document.documentElement.dataset.theme;
const input = document.querySelector("input[type=search]");
input.value = "work error"; input.dispatchEvent(new Event("input"));
seen.rows = [...document.querySelectorAll("table.attempts tbody tr")].filter((row) => !row.hidden).length;
const reachable = (each) => { each.focus(); return document.activeElement === each; };
seen.focusable = [...document.querySelectorAll("[tabindex],button,a,input")].every(reachable);
seen.wide = document.documentElement.scrollWidth <= innerWidth;
document.documentElement.dataset.seen = JSON.stringify(seen);
</script></body>"""


def browse(page: Path) -> tuple[str, list[str]]:
    """Open a page in a browser; return its DOM and what was said on the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=3000", f"--user-data-dir={page.parent / 'profile'}", "--window-size=1200,900"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")
async def test_a_browser_shows_the_page_without_a_complaint_and_does_what_a_reader_asks(tmp_path: Path) -> None:
    path = write_report(await ended(Pipeline()), tmp_path / "run.html")
    _, said = await asyncio.to_thread(browse, path)
    assert said == []  # its own policy would report whatever it tried to load
    driven = tmp_path / "driven.html"
    driven.write_text(re.sub(r"<meta http-equiv[^>]*>", "", path.read_text()).replace("</body>", DRIVER))
    dom, said = await asyncio.to_thread(browse, driven)
    assert said == []
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert seen == {"zoomed": True, "fits": True, "theme": "dark", "rows": 2, "focusable": True, "wide": True}
