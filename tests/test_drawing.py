from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import tracedflow
from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowStalledError,
    catch_error,
    drawing,
    step,
)
from tracedflow.drawing import (
    draw_all_possible_flows,
    draw_all_possible_flows_mermaid,
    draw_all_possible_flows_svg,
    draw_most_recent_execution,
    draw_most_recent_execution_mermaid,
    draw_most_recent_execution_svg,
)
from tracedflow.drawing._layout import Layout, arrange
from tracedflow.events import StepFailedEvent
from tracedflow.resource import Resource, ResourceConfig
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none

SVG = "{http://www.w3.org/2000/svg}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMIT = 200_000  # bytes of a page


class Page(Event):
    """A page of a book."""

    number: int


class PageRead(Event):
    words: int


class Book(Workflow):
    """Reads a book."""

    @step
    async def open(self, ctx: Context, ev: StartEvent) -> list[Page]:
        """Open it."""
        await ctx.store.set("pages", ev.pages)
        return [Page(number=number) for number in range(ev.pages)]

    @step(num_workers=8, timeout=30, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
    async def read(self, ctx: Context, ev: Page) -> PageRead:
        if ev.number % 10 == 3 and ctx.retry_info().retry_number == 0:
            raise ConnectionError("refused")
        if ev.number % 10 == 7:
            raise ValueError("unreadable")
        return PageRead(words=1)

    @catch_error(for_steps=["read"], max_recoveries=1)
    async def skip(self, ev: StepFailedEvent) -> PageRead:
        return PageRead(words=0)

    @step
    async def close(self, ctx: Context, ev: PageRead) -> StopEvent | None:
        pages = ctx.collect_events(ev, [PageRead] * await ctx.store.get("pages"))
        return None if pages is None else StopEvent(result=len(pages))


class Tick(Event):
    left: int


class Clock(Workflow):
    @step
    async def turn(self, ev: StartEvent | Tick) -> Tick | StopEvent:
        left = ev.turns if isinstance(ev, StartEvent) else ev.left
        return Tick(left=left - 1) if left else StopEvent()


class Ask(InputRequiredEvent):
    pass


class Human(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Ask:
        return Ask()

    @step
    async def hear(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


def boxes(svg: str) -> dict[str, list[str]]:
    """Return the texts in each box of a drawing, by the box's id."""
    found = {}
    for group in ET.fromstring(svg).iter(SVG + "g"):
        if "data-id" in group.attrib:
            found[group.attrib["data-id"]] = [text.text or "" for text in group.iter(SVG + "text")]
    return found


def titles(svg: str) -> list[str]:
    return sorted(texts[0] for texts in boxes(svg).values())


def box(svg: str, title: str) -> list[str]:
    return next(texts for texts in boxes(svg).values() if texts[0] == title)


def arrows(svg: str) -> set[tuple[str, str]]:
    """Return the arrows by the titles of their ends."""
    named = {box_id: texts[0] for box_id, texts in boxes(svg).items()}
    return {
        (named[p.attrib["data-from"]], named[p.attrib["data-to"]]) for p in ET.fromstring(svg).iter(SVG + "path") if "data-from" in p.attrib
    }


async def ran(workflow: Workflow[Any], **fields: Any) -> str:
    await workflow.run(**fields)
    return draw_most_recent_execution_svg(workflow, None)


# ---------------------------------------------------------------------------------------------------------- layout


@some.composite
def graphs(draw: some.DrawFn) -> tuple[dict[str, tuple[float, float]], list[tuple[str, str]]]:
    names = [f"n{number}" for number in range(draw(some.integers(1, 14)))]
    size = some.tuples(some.floats(10, 300), some.floats(10, 90))
    edges = some.lists(some.tuples(some.sampled_from(names), some.sampled_from(names)), max_size=30)
    return {name: draw(size) for name in names}, draw(edges)


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_no_boxes_overlap_and_no_line_goes_through_a_box(graph: tuple[dict[str, tuple[float, float]], list[tuple[str, str]]]) -> None:
    sizes, edges = graph
    layout = arrange(sizes, edges)
    assert layout == arrange(sizes, edges)
    assert layout.boxes.keys() == sizes.keys()
    assert layout.routes.keys() == {edge for edge in edges if edge[0] != edge[1]}
    for one, other in combinations(layout.boxes.values(), 2):
        apart = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert apart or one.y + one.height <= other.y or other.y + other.height <= one.y
    for edge, route in layout.routes.items():
        for rect in layout.boxes.values():
            assert rect.x >= -0.01
            assert rect.x + rect.width <= layout.width + 0.01
        check_route(layout, edge, route)


def check_route(layout: Layout, edge: tuple[str, str], route: tuple[tuple[float, float], ...]) -> None:
    """A line starts and ends at its boxes, and between them is never level with a box that it could touch."""
    first, last = layout.boxes[edge[0]], layout.boxes[edge[1]]
    for rect, (x, y) in ((first, route[0]), (last, route[-1])):
        assert rect.x <= x <= rect.x + rect.width
        assert y in (rect.y, rect.y + rect.height)
    for (x0, y0), (x1, y1) in pairwise(route):
        low, high = sorted((y0, y1))
        for rect in layout.boxes.values():
            beside = max(x0, x1) <= rect.x or min(x0, x1) >= rect.x + rect.width
            assert beside or high <= rect.y + 0.01 or low >= rect.y + rect.height - 0.01


def test_a_chain_is_one_straight_line_and_a_circle_has_one_way_up() -> None:
    layout = arrange(dict.fromkeys("abc", (50, 20)), [("a", "b"), ("b", "c")])
    assert len({rect.middle for rect in layout.boxes.values()}) == 1
    assert all(len({x for x, _ in route}) == 1 for route in layout.routes.values())
    circle = arrange(dict.fromkeys("abc", (50, 20)), [("a", "b"), ("b", "c"), ("c", "a")])
    assert [name for name, route in circle.routes.items() if route[0][1] > route[-1][1]] == [("c", "a")]


def test_crossings_that_can_be_avoided_are() -> None:
    layout = arrange(dict.fromkeys("abcd", (50, 20)), [("a", "d"), ("b", "c")])
    assert (layout.boxes["a"].x < layout.boxes["b"].x) == (layout.boxes["d"].x < layout.boxes["c"].x)


def test_a_thousand_boxes_are_placed_in_seconds() -> None:
    names = [f"n{number}" for number in range(1000)]
    layout = arrange(dict.fromkeys(names, (50, 20)), list(pairwise(names)))
    assert len(layout.boxes) == 1000
    assert arrange({}, []).boxes == {}


# ----------------------------------------------------------------------------------------------------------- flows


def test_the_flows_of_a_class_and_of_an_instance_are_the_same() -> None:
    svg = draw_all_possible_flows_svg(Book, None)
    assert svg == draw_all_possible_flows_svg(Book(), None)
    assert titles(svg) == ["Page", "PageRead", "StartEvent", "StepFailedEvent", "StopEvent", "close", "open", "read", "skip"]
    assert {("open", "Page"), ("Page", "read"), ("read", "StepFailedEvent"), ("StepFailedEvent", "skip")} < arrows(svg)
    assert box(svg, "read")[1] == "retries · timeout 30 s"


def test_files_are_written_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_all_possible_flows(Book)
    draw_all_possible_flows(Book, "other.html")
    assert (tmp_path / "workflow_all_flows.html").read_text() == (tmp_path / "other.html").read_text()
    assert draw_all_possible_flows_svg(Book) == (tmp_path / "workflow_all_flows.svg").read_text()
    assert draw_all_possible_flows_mermaid(Book) == (tmp_path / "workflow_all_flows.mermaid").read_text()
    assert len(list(tmp_path.iterdir())) == 4


def test_long_names_are_cut_where_asked_and_whole_on_hover() -> None:
    svg = draw_all_possible_flows_svg(Book, None, max_label_length=6)
    assert "StepF…" in titles(svg)
    assert "StepFailedEvent" in svg
    assert draw_all_possible_flows_svg(Book, None, max_label_length=40) == draw_all_possible_flows_svg(Book, None)


def test_mermaid_has_ids_that_it_accepts_and_a_style_for_each_kind() -> None:
    text = draw_all_possible_flows_mermaid(Book, None)
    assert text.startswith("flowchart TD\n")
    assert 'step_open["open"]:::stepStyle' in text
    assert 'event_StopEvent(["StopEvent"]):::stopEventStyle' in text
    assert "step_open ==> event_Page" in text
    assert "step_read -.-> event_StepFailedEvent" in text
    assert "classDef handlerStyle" in text


def make_client() -> object:
    """Makes the client."""
    return object()


class Tools(Workflow):
    @step
    async def go(
        self,
        ev: StartEvent,
        client: Annotated[object, Resource(make_client)],
        part: Annotated[dict[str, str], ResourceConfig("app.toml", "a")],
    ) -> StopEvent:
        return StopEvent(result=await Clock().run(turns=1))


def test_resources_and_the_workflows_that_a_step_names_are_shown() -> None:
    svg = draw_all_possible_flows_svg(Tools, None)
    assert {("make_client", "go"), ("app.toml", "go"), ("go", "Clock")} < arrows(svg)
    assert "Makes the client." in svg
    assert "Clock" not in draw_all_possible_flows_svg(Tools, None, include_child_workflows=False)
    assert 'resource_make_client{{"make_client"}}' in draw_all_possible_flows_mermaid(Tools, None)


SOUNDS = ["tick", "tock"]


def test_a_step_may_name_things_that_have_no_hash() -> None:
    class Loud(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(SOUNDS, await Clock().run(turns=1)))

    assert ("go", "Clock") in arrows(draw_all_possible_flows_svg(Loud, None))


def test_whatever_is_in_names_and_docstrings_is_only_text(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>\"'&<img src=x>\x00"

    async def go(ev: StartEvent) -> StopEvent:
        return StopEvent()

    flow = Workflow(workflow_name=hostile)
    go.__name__ = go.__doc__ = hostile
    step(workflow=flow)(go)
    svg = draw_all_possible_flows_svg(flow, None)
    assert "</script><script>alert(1)</script>\"'&<img src=x>" in titles(svg)
    draw_all_possible_flows(flow, str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    facts = json.loads(re.findall(r'id="facts">(.*?)</script>', page, re.DOTALL)[0])
    assert facts[hostile.rstrip("\0")]["text"] == hostile
    assert "alert(1)</" not in draw_all_possible_flows_mermaid(flow, None)


# ------------------------------------------------------------------------------------------------------- executions


async def test_a_run_shows_who_caused_whom_how_long_it_took_and_what_failed() -> None:
    svg = await ran(Book(), pages=4)
    assert {("StartEvent", "open"), ("open", "Page ×4"), ("close", "StopEvent")} < arrows(svg)
    reads = [texts for texts in boxes(svg).values() if texts[0].startswith("read #")]
    assert len(reads) == 4
    assert sum("2 attempts" in texts[-1] for texts in reads) == 1
    assert all(re.match(r"[\d.]+ m?s", texts[1]) for texts in reads)
    assert "after 3 to collect" in box(svg, "close")[1]


async def test_a_step_that_ran_many_times_is_one_box_with_its_counts() -> None:
    workflow = Book()
    svg = await ran(workflow, pages=1000)
    assert len(boxes(svg)) == 10
    assert box(svg, "read")[1].startswith("×1,000 · ")
    assert box(svg, "read")[2] == "100 failed · 200 retried"
    assert "StepFailedEvent ×100" in titles(svg)
    assert "after 999 to collect" in box(svg, "close")[1]
    assert len(svg) < LIMIT / 4


async def test_a_loop_is_unrolled_while_it_is_short() -> None:
    assert sum(title.startswith("turn") for title in titles(await ran(Clock(), turns=5))) == 6
    svg = await ran(Clock(), turns=50)
    assert {("turn", "Tick ×50"), ("Tick ×50", "turn")} < arrows(svg)
    assert box(svg, "turn")[1].startswith("×51")


async def test_a_failed_run_says_so_and_where() -> None:
    class Broken(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            raise KeyError("secret payload")

    workflow = Broken()
    with pytest.raises(KeyError):
        await workflow.run()
    svg = draw_most_recent_execution_svg(workflow, None)
    assert box(svg, "go")[-1] == "failed: KeyError"
    assert "failed" in str(ET.fromstring(svg).get("aria-label"))
    assert "secret payload" not in svg
    assert "class step_go_2 failed" in draw_most_recent_execution_mermaid(workflow, None)


async def test_a_stalled_run_shows_what_the_join_lacks() -> None:
    class Lossy(Book):
        @step
        async def read(self, ev: Page) -> PageRead | None:  # type: ignore[override]
            return None if ev.number == 0 else PageRead(words=1)

    workflow = Lossy()
    with pytest.raises(WorkflowStalledError):
        await workflow.run(pages=3)
    svg = draw_most_recent_execution_svg(workflow, None)
    assert box(svg, "close") == ["close", "2 collected", "lacks 1 PageRead"]
    assert str(ET.fromstring(svg).get("aria-label")).startswith(f"{workflow.workflow_name}, stalled")


async def test_a_join_that_never_began_is_shown_with_what_it_lacks() -> None:
    class Left(Event):
        pass

    class Right(Event):
        pass

    class Pair(Workflow):
        @step
        async def go(self, ev: StartEvent) -> Left | Right:
            return Left()

        @step
        async def both(self, one: Left, other: Right) -> StopEvent:
            return StopEvent()

    workflow = Pair()
    with pytest.raises(WorkflowStalledError):
        await workflow.run()
    svg = draw_most_recent_execution_svg(workflow, None)
    assert box(svg, "both") == ["both", "lacks 1 Right"]
    assert ("Left", "both") in arrows(svg)


async def test_questions_go_outside_and_answers_come_from_there() -> None:
    workflow = Human()
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            handler.ctx.send_event(HumanResponseEvent(response="yes"))
    await handler
    assert {("Ask", "outside"), ("outside", "HumanResponseEvent")} < arrows(draw_most_recent_execution_svg(handler, None))


async def test_a_live_run_shows_what_it_is_doing() -> None:
    reading, may_end = asyncio.Event(), asyncio.Event()

    class Slow(Workflow):
        @step
        async def open(self, ev: StartEvent) -> list[Page]:
            return [Page(number=number) for number in range(5)]

        @step(num_workers=2)
        async def read(self, ctx: Context, ev: Page) -> StopEvent:
            if ev.number:
                reading.set()
                await may_end.wait()
                return StopEvent()
            answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=Ask())
            return StopEvent(result=answer)

    workflow = Slow()
    handler = workflow.run()
    assert "new" in draw_most_recent_execution_svg(workflow, None)
    await asyncio.wait_for(reading.wait(), 5)
    svg = draw_most_recent_execution_svg(workflow, None)
    assert svg.replace("1 ms", "") == draw_most_recent_execution_svg(handler, None).replace("1 ms", "") or "running" in svg
    assert "running" in box(svg, "read")[1]
    assert ("Page ×5", "read") in arrows(svg)
    may_end.set()
    await handler.cancel_run()
    assert "cancelled" in str(ET.fromstring(draw_most_recent_execution_svg(workflow, None)).get("aria-label"))


async def test_the_first_step_of_a_live_run_hangs_on_its_start_event() -> None:
    began = asyncio.Event()

    class Slow(Workflow):
        @step
        async def go(self, ev: StartEvent) -> StopEvent:
            began.set()
            await asyncio.Event().wait()
            return StopEvent()

    handler = Slow().run()
    await began.wait()
    assert arrows(draw_most_recent_execution_svg(handler, None)) == {("StartEvent", "go")}
    await handler.cancel_run()


async def test_records_that_are_gone_are_said_to_be_gone() -> None:
    svg = await ran(Clock(keep_records=3), turns=9)
    assert ("earlier steps", "Tick") in arrows(svg)


async def test_the_most_recent_run_is_known_when_its_handler_is_gone_and_holds_no_payload() -> None:
    workflow = Clock()
    with pytest.raises(ValueError, match="Clock has not run yet"):
        draw_most_recent_execution(workflow)
    await workflow.run(turns=1)
    await workflow.run(turns=3)
    svg = draw_most_recent_execution_svg(workflow, None)
    assert sum(title.startswith("turn") for title in titles(svg)) == 4
    assert "completed" in str(ET.fromstring(svg).get("aria-label"))


async def test_a_type_that_is_nowhere_annotated_is_drawn_as_an_event() -> None:
    class Extra(Event):
        pass

    class Flow(Workflow):
        @step
        async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(Extra())
            return StopEvent()

    handler = Flow().run()
    await handler
    assert box(draw_most_recent_execution_svg(handler, None), "Extra")[1] == "1 not taken"


# ----------------------------------------------------------------------------------------------------- notebooks


@pytest.fixture
async def shown() -> list[Any]:
    workflow = Clock()
    handler = workflow.run(turns=1)
    await handler
    return [workflow, handler]


async def test_a_notebook_shows_the_flows_of_a_workflow_and_the_run_of_a_handler(shown: list[Any]) -> None:
    for thing in shown:
        bundle = thing._repr_mimebundle_(include=None, exclude=None)
        assert bundle["text/plain"] == repr(thing)
        assert bundle["text/html"].startswith('<iframe sandbox="allow-scripts"')
        assert bundle["text/html"] == thing._repr_html_()
        ET.fromstring(bundle["image/svg+xml"])


def test_a_drawing_that_fails_leaves_the_text() -> None:
    class Careless(Clock):
        def __init__(self) -> None:
            pass

    class Unreadable(Workflow):
        @step
        async def go(self, ev: StartEvent) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
            ...

    for thing in (Careless(), Unreadable(disable_validation=True)):
        assert thing._repr_html_() is None
        assert thing._repr_mimebundle_().keys() == {"text/plain"}


def test_notebook_shows_the_page_below_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []
    fake = SimpleNamespace(display=lambda data, raw: seen.append((data, raw)))
    draw_all_possible_flows(Clock, str(tmp_path / "a.html"), notebook=True)  # no notebook: nothing to show it in
    monkeypatch.setitem(sys.modules, "IPython.display", fake)  # type: ignore[arg-type]
    draw_all_possible_flows(Clock, str(tmp_path / "a.html"), notebook=True)
    draw_all_possible_flows(Clock, str(tmp_path / "a.html"))
    [(data, raw)] = seen
    assert raw
    assert data["text/html"].startswith("<iframe")


def test_drawing_is_at_the_top_and_loaded_on_first_use() -> None:
    assert set(drawing.__all__) <= set(tracedflow.__all__)
    assert tracedflow.draw_all_possible_flows is draw_all_possible_flows
    with pytest.raises(AttributeError, match="draw_nothing"):
        _ = tracedflow.draw_nothing  # type: ignore[attr-defined]
    script = "import sys, tracedflow; print('tracedflow.drawing' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout == "False\n"


# -------------------------------------------------------------------------------------------------------- the page


async def pages(folder: Path) -> list[Path]:
    """Write a page of flows and one of an execution."""
    workflow = Book()
    await workflow.run(pages=30)
    draw_all_possible_flows(Tools, str(folder / "flows.html"))
    draw_most_recent_execution(workflow, str(folder / "execution.html"))
    return [folder / "flows.html", folder / "execution.html"]


async def test_a_page_is_small_and_names_no_address(tmp_path: Path) -> None:
    for page in await pages(tmp_path):
        text = page.read_text()
        assert len(text) < LIMIT
        assert set(re.findall(r"[a-z]+://[^\s\"'<)]*", text)) == {"http://www.w3.org/2000/svg"}
        assert re.findall(r"""(?:[ ]src|href)=["']?([^"'\s>]+)|url\(([^#)]+)\)""", text) == [("data:,", "")]
        assert "default-src 'none'" in text
        assert not re.search(r"\son\w+=", text)


# What a reader would do, and what is then to be seen; the policy of the page forbids it, so it goes into a copy without one.
DRIVER = """
<script>
const seen = {}, view = () => document.querySelector("main > svg").getAttribute("viewBox").split(" ").map(Number);
const key = (target, name) => target.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const panel = () => document.querySelector("aside").innerText;
const box = [...document.querySelectorAll(".b")].find((each) => each.textContent.startsWith(WANTED));
const width = () => view()[2];
let before = width();
document.querySelector("[data-do=in]").click(); seen.button = before > width(); before = width();
key(document.body, "-"); seen.key = before < width(); before = width();
document.querySelector("main").dispatchEvent(new WheelEvent("wheel", { deltaY: -100, clientX: 200, clientY: 200, cancelable: true }));
seen.wheel = before > width();
let left = view()[0]; key(document.body, "ArrowRight"); seen.pan = view()[0] > left;
key(document.body, "0"); seen.fit = view()[2] >= 100;
seen.idle = panel();
box.dispatchEvent(new PointerEvent("pointerenter")); seen.hover = panel();
seen.near = document.querySelectorAll(".b.near").length;
box.dispatchEvent(new PointerEvent("pointerleave")); seen.left = panel() === seen.idle;
box.focus(); key(box, "Enter"); box.blur(); seen.kept = panel() === seen.hover;
key(document.body, "Escape"); seen.released = panel() === seen.idle;
document.querySelector("[data-do=theme]").click(); seen.theme = document.documentElement.dataset.theme;
seen.wide = 0;
for (const each of document.querySelectorAll(".b")) {
  const room = [...each.querySelectorAll(".body")].pop().getBBox().width;
  for (const text of each.querySelectorAll("text")) seen.wide += text.getBBox().width > room - 6;
}
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
    for page, wanted, facts, near in zip(await pages(tmp_path), ("go", "read"), ("ResourceConfig", "ConnectionError"), (6, 4), strict=True):
        dom, said = await asyncio.to_thread(browse, page)
        assert said == []  # its own policy would report whatever it tried to load
        assert 'class="hint"' in dom
        driven = page.with_name(f"driven-{page.name}")
        text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
        driven.write_text(text.replace("</body>", DRIVER.replace("WANTED", json.dumps(wanted))))
        dom, said = await asyncio.to_thread(browse, driven)
        assert said == []
        found = re.search(r'data-seen="([^"]*)"', dom)
        assert found
        seen = json.loads(found[1].replace("&quot;", '"').replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
        assert {name for name, value in seen.items() if value is False} == set()
        assert wanted in seen["hover"]
        assert seen["near"] == near, facts
        assert (seen["theme"], seen["wide"]) == ("dark", 0)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")
async def test_the_browser_would_report_what_a_page_tried_to_load(tmp_path: Path) -> None:
    page, _ = await pages(tmp_path)
    page.write_text(page.read_text().replace("</body>", '<img src="https://example.invalid/x.png"></body>'))
    _, said = await asyncio.to_thread(browse, page)
    assert "example.invalid" in "".join(said)


MEASURE = """<script>
const legend = document.querySelector(".legend").getBoundingClientRect(), main = document.querySelector("main").getBoundingClientRect();
const boxes = [...document.querySelectorAll("main .b")].map((box) => box.getBoundingClientRect());
const hidden = boxes.filter((box) => box.left < main.left || box.right > main.right || box.bottom > legend.top).length;
document.documentElement.dataset.seen = JSON.stringify([boxes.length, hidden]);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")
async def test_the_first_look_has_the_whole_picture_and_the_legend_covers_none_of_it(tmp_path: Path) -> None:
    class Item(Event):
        number: int

    class ItemDone(Event):
        number: int

    class Fan(Workflow):
        @step
        async def split_everything(self, ev: StartEvent) -> list[Item]:
            return [Item(number=number) for number in range(6)]

        @step
        async def execute_item(self, ev: Item) -> ItemDone:
            return ItemDone(number=ev.number)

        @step
        async def gather(self, done: list[ItemDone]) -> StopEvent:
            return StopEvent(result=len(done))

    handler = Fan().run()
    await handler
    page = tmp_path / "fan.html"
    draw_most_recent_execution(handler, str(page))
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    page.write_text(text.replace("</body>", MEASURE))
    dom, said = await asyncio.to_thread(browse, page)
    assert said == []
    assert 'data-seen="[17,0]"' in dom, re.findall(r'data-seen="[^"]*"', dom)
