from __future__ import annotations

from tracedflow.inspect.tables import table, without_empty

ROWS = [("alpha", "a very long text that goes on", "1"), ("b", "short", "20")]


def test_the_first_columns_are_to_the_left_and_numbers_to_the_right() -> None:
    assert table(("name", "text", "n"), ROWS, left=2) == [
        "name   text                            n",
        "alpha  a very long text that goes on   1",
        "b      short                          20",
    ]


def test_a_width_cuts_the_widest_column_until_it_fits() -> None:
    lines = table(("name", "text", "n"), ROWS, left=2, width=25)
    assert lines == ["name   text             n", "alpha  a very long t…   1", "b      short           20"]


def test_columns_that_are_to_stay_whole_are_never_cut() -> None:
    lines = table(("an identifier of a run", "text"), [("0123456789012345678901", "something else entirely")], left=2, width=20, whole=1)
    assert lines[1].startswith("0123456789012345678901  ")


def test_columns_of_dashes_are_left_out() -> None:
    assert without_empty(("a", "b", "c"), [("1", "-", "-"), ("2", "-", "3")]) == (["a", "c"], [["1", "-"], ["2", "3"]])
    assert without_empty(("a", "b"), []) == (["a", "b"], [])
