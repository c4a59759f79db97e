"""The benchmark suite itself: what it measures, what it calls missed, and what it says of what it leaves out. No figure is held here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import _publish
from benchmarks._chain import bare_chain, chain_of
from benchmarks._fanout import KINDS, bare_fan_out, fan_out_of
from benchmarks._measure import Contest, Rounds, Turn, interleave
from benchmarks._processes import measured
from benchmarks._report import Figure, Section, against_bare, against_peer, text_table
from benchmarks._runs import completed, runs_of


def _rounds(ours: float, other: float) -> Rounds:
    return Rounds(ours=[Turn(ours, ours)] * 3, other=[Turn(other, other)] * 3)


def test_a_limit_that_is_not_met_is_shown_as_missed() -> None:
    held, missed = against_bare("fits", _rounds(2e-6, 4e-6), 0.8), against_bare("too slow", _rounds(4e-6, 4e-6), 0.8)
    assert (held.verdict, missed.verdict) == ("held", "MISSED")
    assert "MISSED" in text_table(Section(part="chain", title="A chain", figures=[held, missed]))


def test_against_a_peer_more_is_better() -> None:
    ahead, behind = against_peer("slow peer", _rounds(1e-6, 40e-6), 30), against_peer("quick peer", _rounds(40e-6, 1e-6), 30)
    assert (ahead.value, ahead.verdict) == (pytest.approx(40), "held")
    assert (behind.value, behind.verdict) == (pytest.approx(1 / 40), "MISSED")


def test_a_figure_without_a_limit_is_neither_held_nor_missed() -> None:
    assert Figure(name="shown", value=9, unit="ms").verdict == ""


async def test_both_sides_take_a_turn_in_each_round_and_the_first_changes() -> None:
    turns: list[str] = []

    async def ours() -> None:
        turns.append("ours")

    async def other() -> None:
        turns.append("other")

    found = await interleave([Contest(name="it", items=1, ours=ours, other=other)], rounds=2)
    assert turns == ["other", "ours", "ours", "other", "other", "ours"]  # the first round warms up
    assert len(found["it"].ours) == len(found["it"].other) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_fan_out_joins_all_of_its_items(kind: str) -> None:
    asyncio.run(fan_out_of(kind, 20)())


async def test_the_other_programs_do_their_work_too() -> None:
    await chain_of(5)()
    await bare_chain(5)
    await runs_of(5)()
    assert await bare_fan_out(20) == 20
    assert (await completed(5)).value == 5


def test_without_the_environment_of_the_peers_their_rows_are_said_to_be_left_out(tmp_path: Path) -> None:
    section = measured(Section(part="peers", title="Against nobody"), ["benchmarks._pass"], environment=tmp_path / "none")
    assert section.figures == []
    assert f"left out: there is no complete {tmp_path / 'none'}" in text_table(section)


def test_a_process_that_fails_is_a_note_with_its_last_words() -> None:
    section = measured(Section(part="chain", title="A chain"), ["benchmarks._pass", "1", "all", "asyncio", "nothing"])
    assert section.figures == []
    assert "there is no part 'nothing'" in section.notes[0]


def test_what_was_measured_is_written_between_the_marks_and_losses_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{_publish.BEGIN}\nolder figures\n{_publish.END}\nafter\n")
    monkeypatch.setattr(_publish, "PAGE", page)
    monkeypatch.setattr(_publish, "ROOT", tmp_path)
    monkeypatch.setattr(_publish, "BENCH_VENV", tmp_path / "none")
    sections = [
        Section(part="chain", title="A chain", figures=[against_bare("chain", _rounds(4e-6, 4e-6), 0.8)]),
        Section(part="peers", title="Against Quick", figures=[against_peer("runs: Quick 1.0", _rounds(2e-6, 1e-6))]),
        Section(part="fairness", title="Fairness", notes=["left out by --quick"]),
    ]
    _publish.publish(sections, rounds=3)
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "older figures" not in written
    assert "| chain | 4.00 µs | 4.00 µs | 1.00 x bare | 1.00 | ≤ 0.8 | **MISSED** |" in written
    assert "- A peer is faster: runs: Quick 1.0. It takes 0.50 times as long as we do." in written
    assert "| A chain | 1 of 1 | chain: **1.00** x bare (≤ 0.8) |" in written
    assert "*left out by --quick*" in written


def test_the_page_has_the_marks() -> None:
    page = _publish.PAGE.read_text(encoding="utf-8")
    assert page.index(_publish.BEGIN) < page.index(_publish.END)
