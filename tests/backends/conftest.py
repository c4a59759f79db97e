"""Starts the real backends once for all tests here. What is not installed is skipped, with its reason; nothing is passed unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.backends.services import Collector, Jaeger, Missing, Mlflow, Service

ServiceT = TypeVar("ServiceT", bound=Service)


def _running(start: Callable[[], ServiceT]) -> Iterator[ServiceT]:
    try:
        service = start()
    except Missing as reason:
        pytest.skip(f"not installed: {reason}")
    yield service
    service.stop()


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    yield from _running(lambda: Jaeger(tmp_path_factory.mktemp("jaeger")))


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[Collector]:
    """The collector in front of Jaeger: everything remarkable is kept, nothing of the rest."""
    yield from _running(lambda: Collector(tmp_path_factory.mktemp("collector"), jaeger.otlp_grpc, keep_percent=0))


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    yield from _running(lambda: Mlflow(tmp_path_factory.mktemp("mlflow")))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[Any]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Service):
                report.sections.append((f"end of the log of {value.name}", value.tail()))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path
