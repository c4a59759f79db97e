"""Runs the programs of `tests/programs`, each under many schedules in virtual time."""

from __future__ import annotations

from importlib import import_module

import pytest

from tracedflow.testing import Schedule, explore

pytest.register_assert_rewrite("tests.programs")

SEEDS = 200
PROGRAMS = ["agent", "approvals", "chat", "crawler", "debate", "etl", "mapreduce", "orders", "rag", "saga"]
NASTY = ["nasty_cancel", "nasty_joins", "nasty_waits"]


@pytest.mark.parametrize("name", [*PROGRAMS, *NASTY])
def test_a_program_has_one_answer_under_every_schedule(name: str) -> None:
    explore(import_module(f"tests.programs.{name}").main, seeds=SEEDS)


@pytest.mark.parametrize("name", ["orders", "nasty_joins"])
def test_a_program_cut_off_at_any_point_goes_on_to_the_same_answer(name: str) -> None:
    program = import_module(f"tests.programs.{name}")
    points = 0

    async def everywhere(schedule: Schedule) -> None:
        nonlocal points
        points += 1
        while await program.cut_off(schedule, [points, points // 2]):
            points += 1
            schedule.random.seed(schedule.seed)

    explore(everywhere, seeds=1)
    assert points > 50
