"""What a model may set in motion is bounded: SQL reads and nothing else, code runs in a child with limits, tools check their arguments."""

from __future__ import annotations

import asyncio
import csv
import hashlib
from pathlib import Path

import pytest

from examples._kit.cli import CORPUS
from examples._kit.sandbox import Sandbox, refusal
from examples._kit.sql import Database, SqlError, load_records, load_tables, statement_in
from examples._kit.tools import Tool, ToolError, tool_named

# --- SQL ---


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return load_tables(tmp_path / "town.db", CORPUS)


def rows_of(table: str) -> list[dict[str, str]]:
    with (CORPUS / "tables" / f"{table}.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_table_is_loaded_whole(file: Path) -> None:
    with Database(file) as db:
        assert db.tables == sorted(path.stem for path in (CORPUS / "tables").glob("*.csv"))
        for table in db.tables:
            assert db.query(f"SELECT count(*) FROM {table}").rows == [(len(rows_of(table)),)]
            assert db.sample(table, 2).columns == list(rows_of(table)[0])
            assert f"CREATE TABLE {table}" in db.schema(table)
        [(kilograms,)] = db.query("SELECT sum(kilograms) FROM landings WHERE fish = 'cod'").rows
    assert kilograms == sum(int(row["kilograms"]) for row in rows_of("landings") if row["fish"] == "cod")


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE vessels",
        "DELETE FROM vessels",
        "UPDATE vessels SET name = 'x'",
        "INSERT INTO vessels (name) VALUES ('x')",
        "CREATE TABLE t (x)",
        "ATTACH DATABASE 'other.db' AS other",
        "PRAGMA table_info(vessels)",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT writefile('x', 'y')",
        "BEGIN",
        "VACUUM INTO 'copy.db'",
        "",
        "not SQL at all",
        "SELECT nothing FROM vessels",
    ],
)
def test_whatever_is_not_one_read_is_refused_and_changes_nothing(file: Path, statement: str) -> None:
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    with Database(file) as db:
        with pytest.raises(SqlError) as caught:
            db.query(statement)
        assert caught.value.statement == statement
        assert db.query("SELECT 1 AS one").rows == [(1,)]  # still usable
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_query_without_an_end_is_stopped_and_the_next_one_runs(file: Path) -> None:
    with Database(file, seconds=0.05) as db:
        with pytest.raises(SqlError, match="longer than"):
            db.query("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c")
        assert len(db.query("SELECT * FROM vessels").rows) == len(rows_of("vessels"))


def test_rows_are_shown_as_a_table_of_text(file: Path) -> None:
    with Database(file, most=5) as db:
        found = db.query("SELECT id, pier FROM berths")
    assert len(found.rows) == 5
    lines = found.as_text(most=2).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("id | pier", 4, "... 3 more rows")


@pytest.mark.parametrize(
    "answer",
    ["SELECT 1", " SELECT 1;\n", "```sql\nSELECT 1;\n```", "Here it is:\n```\nSELECT 1\n```\nIt counts.", "```SQL\nSELECT 1 ;```"],
)
def test_a_statement_is_found_in_a_models_answer(answer: str) -> None:
    assert statement_in(answer) == "SELECT 1"


def test_two_statements_in_an_answer_stay_two() -> None:
    assert statement_in("```sql\nSELECT 1; DROP TABLE t;\n```") == "SELECT 1; DROP TABLE t"


def test_records_become_a_table_whatever_their_keys_are(tmp_path: Path) -> None:
    records = [
        {"id": 1, "full name": "Ada", 'x"); DROP TABLE t; --': 1.5, "languages": ["a", "b"]},
        {"id": 2, "full name": None, "select": True},
    ]
    with Database(load_records(tmp_path / "r.db", "some table", records)) as db:
        assert db.tables == ["some table"]
        found = db.query('SELECT * FROM "some table"')
        assert found.columns == list(dict.fromkeys(key for record in records for key in record))
        assert found.rows == [(1, "Ada", 1.5, '["a", "b"]', None), (2, None, None, None, 1)]
        assert db.query("SELECT value FROM \"some table\", json_each(languages) WHERE value = 'b'").rows == [("b",)]
    with pytest.raises(ValueError, match="no records"):
        load_records(tmp_path / "none.db", "t", [])


def test_keys_that_differ_in_capitals_alone_are_columns_of_their_own(tmp_path: Path) -> None:
    with Database(load_records(tmp_path / "r.db", "t", [{"name": 1, "Name": 2, "name_2": 3, "NAME": 4}])) as db:
        found = db.query("SELECT * FROM t")
    assert found.columns == ["name", "Name_3", "name_2", "NAME_4"]
    assert found.rows == [(1, 2, 3, 4)]


# --- code ---


async def test_programs_share_their_variables_and_nothing_of_the_host() -> None:
    async with Sandbox("import math\ndef add(a, b):\n    return a + b\n") as box:
        assert (await box.run("total = add(2, 3)\nprint('so far', total)")).output == "so far 5\n"
        ran = await box.run("total * 2")
        assert (ran.value, ran.output, ran.error) == ("10", "", "")
        assert "ZeroDivisionError" in (await box.run("1 / 0")).error
        assert "NameError" in (await box.run("open('/etc/passwd')")).error
        assert (await box.run("total")).value == "5"
    async with Sandbox() as other:
        assert "NameError" in (await other.run("total")).error


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "from os import path",
        "().__class__",
        "x = [].__init__.__globals__",
        "__import__('os')",
        "'{0.__class__}'.format(1)",
        "f = (x for x in [1]).gi_frame",
        "class A: pass",
        "async def f(): pass",
        "try:\n    pass\nexcept Exception as _e:\n    pass",
        "def f(:",
        "\0",
        "with x: pass",
    ],
)
def test_what_leads_out_is_refused_before_anything_runs(code: str) -> None:
    assert refusal(code)


async def test_a_refused_program_starts_no_process() -> None:
    async with Sandbox() as box:
        assert (await box.run("import os")).error == "refused: line 1: imports are not allowed"
        assert box._process is None


async def test_a_program_without_an_end_is_killed_and_the_next_one_starts_anew() -> None:
    async with Sandbox(seconds=0.2) as box:
        assert box.fresh
        await box.run("x = 1")
        assert not box.fresh
        assert "stopped after 0.2 s" in (await box.run("while True:\n    pass")).error
        assert box.fresh
        assert "NameError" in (await box.run("x")).error
        assert (await box.run("1 + 1")).value == "2"


async def test_memory_is_bounded_and_output_is_cut() -> None:
    async with Sandbox(memory=256 * 1024 * 1024) as box:
        assert "MemoryError" in (await box.run("x = [0] * 10**9")).error
        assert len((await box.run("print('x' * 10**6)")).output) == 20_000


async def test_two_programs_at_once_take_turns() -> None:
    async with Sandbox() as box:
        ran = await asyncio.gather(*(box.run(f"{number} * 10") for number in range(8)))
    assert [each.value for each in ran] == [str(number * 10) for number in range(8)]


async def test_a_cancelled_program_leaves_no_answer_for_the_next() -> None:
    async with Sandbox(seconds=5) as box:
        await box.run("0")
        endless = asyncio.create_task(box.run("while True:\n    pass"))
        await asyncio.sleep(0)
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        assert (await box.run("'mine'")).value == "'mine'"


# --- tools ---


def divide(dividend: float, divisor: float = 2.0) -> float:
    """Divide one number by another."""
    return dividend / divisor


async def greet(names: list[str]) -> str:
    return ", ".join(names)


def test_a_tool_is_described_by_its_signature_and_its_docstring() -> None:
    assert Tool(divide).spec == {
        "type": "function",
        "function": {
            "name": "divide",
            "description": "Divide one number by another.",
            "parameters": {
                "type": "object",
                "properties": {"dividend": {"type": "number"}, "divisor": {"type": "number", "default": 2.0}},
                "required": ["dividend"],
                "additionalProperties": False,
            },
        },
    }


async def test_a_tool_is_called_with_json() -> None:
    assert await Tool(divide).call('{"dividend": 9}') == "4.5"
    assert await Tool(greet).call('{"names": ["a", "b"]}') == "a, b"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("{", "Invalid JSON"),
        ("{}", "dividend: Field required"),
        ('{"dividend": "much"}', "dividend: .*number"),
        ('{"dividend": 1, "x": 2}', "x: Extra"),
        ('{"dividend": 1, "divisor": 0}', "ZeroDivisionError"),
    ],
)
async def test_what_is_wrong_with_a_call_is_told_in_words(arguments: str, problem: str) -> None:
    with pytest.raises(ToolError, match=f"divide .*{problem}"):
        await Tool(divide).call(arguments)


def test_a_tool_that_there_is_not_is_answered_with_those_there_are() -> None:
    tools = [Tool(divide), Tool(greet)]
    assert tool_named(tools, "greet") is tools[1]
    with pytest.raises(ToolError, match="no tool 'multiply'; there are divide, greet"):
        tool_named(tools, "multiply")
