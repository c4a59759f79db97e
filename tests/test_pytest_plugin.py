"""Holds what the pytest plugin promises: a failed test tells of the runs made in it, and nothing else changes."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_tracedflow
from tracedflow import _config
from tracedflow._engine import _live

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent

Run = Callable[..., pytest.RunResult]

FLOWS = """
import asyncio
import pytest
from tracedflow import Event, StartEvent, StopEvent, Workflow, step
from tracedflow.testing import Recorder, assert_run

class Part(Event):
    secret: str = "payload"

class Shop(Workflow):
    @step
    async def price(self, ev: StartEvent) -> Part:
        return Part()

    @step
    async def pay(self, ev: Part) -> StopEvent:
        return StopEvent(result="paid")

class Stuck(Workflow):
    @step
    async def first(self, ev: StartEvent) -> StopEvent | None:
        return None

class Broken(Workflow):
    @step
    async def burst(self, ev: StartEvent) -> StopEvent:
        raise ValueError("burst")

def flow(kind=Shop, **options):
    return kind(telemetry=False, **options)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a test file in this process, with the plugin and without those that measure or configure ours."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def inner(tests: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(FLOWS + tests)
        return pytester.runpytest_inprocess("-p", "pytest_tracedflow", "-p", "no:cacheprovider", *options)

    return inner


def section(result: pytest.RunResult) -> str:
    """Return what the plugin added, all failures together."""
    parts = result.stdout.str().split(" tracedflow runs ")[1:]
    return "\n".join(part.partition("\n")[2].partition("\n___")[0] for part in parts)


def test_a_failed_test_shows_the_waterfall_and_the_reason_of_its_runs(run: Run) -> None:
    result = run("""
def test_it():
    assert flow().run_sync() == "unpaid"
""")
    result.assert_outcomes(failed=1)
    text = section(result)
    assert "of Shop completed in" in text
    assert "price" in text
    assert "██ running" in text
    assert "payload" not in text


def test_a_test_that_passes_shows_nothing(run: Run) -> None:
    result = run(
        """
def test_it():
    assert flow().run_sync() == "paid"
""",
        "-rA",
    )
    result.assert_outcomes(passed=1)
    assert "tracedflow runs" not in result.stdout.str()


def test_a_failed_test_without_runs_shows_nothing(run: Run) -> None:
    result = run("""
def test_other():
    flow().run_sync()

def test_it():
    assert False
""")
    result.assert_outcomes(passed=1, failed=1)
    assert "tracedflow runs" not in result.stdout.str()


def test_a_stalled_and_a_failed_run_say_why(run: Run) -> None:
    result = run("""
def test_stuck():
    flow(Stuck).run_sync()

def test_broken():
    flow(Broken).run_sync()
""")
    result.assert_outcomes(failed=2)
    text = section(result)
    assert "of Stuck stalled after" in text
    assert "step `first`, which returned None once" in text
    assert "of Broken failed after" in text


def test_a_live_run_is_told_of(run: Run) -> None:
    result = run("""
class Waits(Workflow):
    @step
    async def wait(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()

loop = asyncio.new_event_loop()

def test_it():
    async def main():
        handler = flow(Waits).run()
        for _ in range(5):
            await asyncio.sleep(0)
        return handler
    handler = loop.run_until_complete(main())
    try:
        assert handler.done()
    finally:
        test_it.handler = handler

def test_clean_up():
    test_it.handler.cancel()
    loop.run_until_complete(asyncio.wait([test_it.handler]))
    loop.close()
""")
    result.assert_outcomes(failed=1, passed=1)
    assert "of Waits has been running for" in section(result)
    assert "step `wait` is running" in section(result)


def test_many_runs_are_cut_and_the_ones_that_did_not_complete_stay(run: Run) -> None:
    result = run("""
def test_it():
    for _ in range(2):
        with pytest.raises(ValueError):
            flow(Broken).run_sync()
    for _ in range(150):
        flow().run_sync()
    with pytest.raises(ValueError):
        flow(Broken).run_sync()
    assert False
""")
    text = section(result)
    assert text.count("of Shop completed") == 4
    assert text.count("of Broken failed") == 1  # the first two are forgotten: a test keeps a hundred
    assert "148 more runs" in text
    assert len(text.splitlines()) < 60


def test_a_run_of_a_failed_fixture_is_told_of_once(run: Run) -> None:
    result = run("""
@pytest.fixture
def shop():
    flow().run_sync()
    yield
    raise OSError("fixture")

def test_it(shop):
    assert False
""")
    result.assert_outcomes(failed=1, errors=1)
    assert result.stdout.str().count("of Shop completed") == 1


def test_watching_keeps_no_run_alive(run: Run) -> None:
    result = run("""
import gc
import weakref

def test_it():
    async def main():
        handler = flow().run()
        await handler
        return weakref.ref(handler)
    found = asyncio.run(main())
    gc.collect()
    assert found() is None
    assert False, "to see the report"
""")
    assert "of Shop completed in" in section(result)
    assert "to see the report" in result.stdout.str()


def test_handlers_of_runs_that_the_code_starts_by_itself(run: Run) -> None:
    result = run("""
def test_it(flow_runs):
    assert flow_runs == []
    flow().run_sync()
    flow().run_sync()
    first, second = flow_runs
    assert_run(first).completed().order("price", "pay")
    assert second.result() == "paid"

def test_the_next_one_starts_anew(flow_runs):
    assert flow_runs == []
""")
    result.assert_outcomes(passed=2)


def test_a_recorder_in_every_new_instance(run: Run) -> None:
    result = run("""
old = flow()

def test_it(flow_recorder):
    own = Recorder()
    flow().run_sync()
    flow(middleware=[own]).run_sync()
    assert flow_recorder.order == ["price", "pay", "price", "pay"]
    assert own.order == ["price", "pay"]

def test_the_next_one_starts_anew(flow_recorder):
    old.run_sync()
    assert flow_recorder.order == ["price", "pay"]
""")
    result.assert_outcomes(passed=2)


def test_nothing_is_left_behind(run: Run) -> None:
    watchers, layers = list(_live.watchers), _config._settings.middleware
    run("""
def test_it(flow_recorder, flow_runs):
    flow().run_sync()
    assert False
""").assert_outcomes(failed=1)
    assert (_live.watchers, _config._settings.middleware) == (watchers, layers)


def test_telemetry_may_be_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEDFLOW_TELEMETRY", "off")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = run("""
def test_it(flow_recorder):
    Shop().run_sync()
    assert flow_recorder.order == []
""")
    result.assert_outcomes(failed=1)
    assert "of Shop completed in" in section(result)


def test_what_cannot_be_told_hides_no_failure(run: Run) -> None:
    result = run("""
def test_it(flow_runs):
    flow().run_sync()
    flow_runs[0]._runner.report = lambda: 1 / 0
    assert False, "the failure itself"
""")
    result.assert_outcomes(failed=1)
    assert "the failure itself" in result.stdout.str()
    assert "could not be told of: ZeroDivisionError" in section(result)


def test_a_session_that_does_not_use_tracedflow_does_not_load_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("""
        import sys

        def test_it():
            assert "pytest_tracedflow" in sys.modules
            assert not [name for name in sys.modules if name.startswith(("tracedflow", "opentelemetry", "pydantic"))]
    """)
    pytester.runpytest_subprocess("-p", "pytest_tracedflow", "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_every_pytest_may_load_it_as_it_imports_nothing_of_the_package() -> None:
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert entry == {"pytest_tracedflow": pytest_tracedflow.__name__}
    tree = ast.parse(Path(pytest_tracedflow.__file__).read_text())
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in at_import if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in at_import if isinstance(node, ast.ImportFrom)]
    assert sorted(names) == ["__future__", "collections.abc", "pytest", "sys", "typing"]
