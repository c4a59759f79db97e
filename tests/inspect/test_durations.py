from __future__ import annotations

import pytest

from tracedflow.inspect.durations import short


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.00994, "9.9 ms"),
        (0.012, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.2, "1.20 s"),
        (12.34, "12.3 s"),
        (59.96, "1 m 00 s"),
        (125, "2 m 05 s"),
        (12_000, "3 h 20 m"),
        (180_000, "2 d 02 h"),
    ],
)
def test_a_duration_has_three_digits_at_most(seconds: float, text: str) -> None:
    assert short(seconds) == text
