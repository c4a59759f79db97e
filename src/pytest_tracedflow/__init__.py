"""The pytest plugin of tracedflow: a failed test shows the runs that were made in it, each with its waterfall and its `why()`.

It is a package of its own, as every pytest in the environment loads it: it imports nothing of tracedflow until a test has.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tracedflow import WorkflowHandler
    from tracedflow.testing import Recorder
    from tracedflow.testing._watch import RunWatch

_WATCH: pytest.StashKey[RunWatch] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch the runs of one test, with its fixtures. A test is not watched if nothing had imported tracedflow before it."""
    if "tracedflow" not in sys.modules:
        return (yield)
    from tracedflow.testing._watch import RunWatch

    watch = item.stash[_WATCH] = RunWatch()
    try:
        with watch.watching():
            return (yield)
    finally:
        del item.stash[_WATCH]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a section to the report of a phase that failed."""
    report = yield
    watch = item.stash.get(_WATCH, None)
    if watch is not None and report.failed:
        try:
            text = watch.take()
        except Exception as error:  # noqa: BLE001 - what is told of a failure may not hide it
            text = f"the runs of this test could not be told of: {error!r}"
        if text:
            report.sections.append(("tracedflow runs", text))
    return report


@pytest.fixture
def flow_runs() -> Iterator[list[WorkflowHandler[Any]]]:
    """The handlers of all runs that start in this test, oldest first, also of those that the code under test starts by itself."""
    from tracedflow.testing import _watch

    yield from _watch.handlers()


@pytest.fixture
def flow_recorder() -> Iterator[Recorder]:
    """A `Recorder` in every workflow instance that runs for the first time in this test, without being given to any."""
    from tracedflow.testing import _watch

    yield from _watch.recorder()
