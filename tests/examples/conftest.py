from __future__ import annotations

import os

import pytest

from examples._kit import cli


@pytest.fixture(autouse=True)
def _as_one_of_many_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main(...)` in a test sets no global trace provider, which is for a whole process, and asks nobody that the environment names."""
    for name in [name for name in os.environ if name.startswith("TRACEDFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cli, "_start_tracing", lambda file: None)
