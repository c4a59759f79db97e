"""Runs the programs of `tests/programs`, each under many schedules in virtual time."""

from __future__ import annotations

from importlib import import_module

import pytest

from tracedflow.testing import explore

pytest.register_assert_rewrite("tests.programs")

SEEDS = 200
PROGRAMS = ("agent", "approvals", "crawler", "etl", "mapreduce", "rag")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_has_one_answer_under_every_schedule(name: str) -> None:
    explore(import_module(f"tests.programs.{name}").main, seeds=SEEDS)
