from __future__ import annotations

from collections.abc import Iterator

import pytest

from tracedflow import _config, _naming, accept_again


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Whatever a test configured or drained, the next one starts as a fresh process does."""
    _config.reset()
    _naming.forget()
    accept_again()
    yield
    _config.reset()
    accept_again()
