from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from tracedflow import _config, _naming, accept_again
from tracedflow.telemetry import names

settings.register_profile("house", deadline=None)  # a busy machine is no failure; speed is held in benchmarks
settings.register_profile(  # of `make mutants`: the same examples for every mutant, and the first that fails kills it
    "mutants", deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate), report_multiple_bugs=False
)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Whatever a test configured or drained, the next one starts as a fresh process does."""
    _config.reset()
    _naming.forget()
    accept_again()
    yield
    _config.reset()
    accept_again()


@pytest.fixture(autouse=True)
def _room_for_many_workflows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs more workflows than metrics have room for; the warning would fall into any test that is about something else."""
    if not {"telemetry", "backends"} & set(request.path.parts):  # those are about it
        monkeypatch.setattr(names, "MAX_LABEL_SETS", 1_000_000)
