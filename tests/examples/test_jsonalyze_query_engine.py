from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from examples._kit.cli import CORPUS
from examples._kit.messages import Asked
from examples._kit.model import Rule, ScriptedModel
from examples._kit.reading import tagged
from examples._kit.scripts.jsonalyze_query_engine import RULES
from examples._kit.sql import SqlError
from examples.jsonalyze_query_engine import QUESTION, JSONAnalyzeQueryEngine, Response, main
from tests.examples.cases.jsonalyze_query_engine import crew
from tracedflow import configure
from tracedflow.telemetry import Tracing

CREW = crew(CORPUS)
NAME = "jsonalyze_query_engine"


async def ask(question: str, records: Any, rules: dict[str, Rule] | None = None, **start: Any) -> Response:
    model = ScriptedModel({f"{NAME}.{prompt}": rule for prompt, rule in (rules or {}).items()})
    model.seconds_per_word = 0.0
    response: Response = await JSONAnalyzeQueryEngine(model, timeout=60).run(query=question, list_of_dict=records, **start)
    return response


def percentage(part: int) -> float:
    return round(100 * part / len(CREW), 2)


@pytest.mark.parametrize(
    ("question", "truth"),
    [
        ("What is the maximum age of the crew?", [[max(each["age"] for each in CREW)]]),
        (
            "How many of the crew are there for each occupation?",
            sorted([occupation, count] for occupation, count in Counter(each["occupation"] for each in CREW).items()),
        ),
        (
            "How many of the crew have a phone number that begins with '0711'?",
            [[sum(each["phone"].startswith("0711") for each in CREW)]],
        ),
        ("What percentage of the crew is older than 50?", [[percentage(sum(each["age"] > 50 for each in CREW))]]),
        ("What percentage of the crew has English among their languages?", [[percentage(sum("English" in e["languages"] for e in CREW))]]),
        ("How many of the crew have Norse among their languages?", [[sum("Norse" in each["languages"] for each in CREW)]]),
        ("How many of the crew have more than 20 years at sea?", [[sum(each["years_at_sea"] > 20 for each in CREW)]]),
        ("How many of the crew are on the vessel Salt Sparrow?", [[sum(each["vessel"] == "Salt Sparrow" for each in CREW)]]),
    ],
)
async def test_the_result_is_what_plain_python_counts(question: str, truth: list[list[object]]) -> None:
    response = await ask(question, CREW, table_name="crew")
    assert [list(row.values()) for row in response.metadata["results"]] == truth
    for row in truth:
        for value in row:
            assert str(value) in response.text


async def test_the_metadata_holds_the_statement_that_was_run_and_the_table_it_was_run_on() -> None:
    statement = "SELECT name AS who FROM crew WHERE id = 3"
    response = await ask("Who is the third?", CREW, {"sql": lambda asked: f"```sql\n{statement};\n```"}, table_name="crew")
    assert response.metadata["sql_query"] == statement
    assert response.metadata["results"] == [{"who": CREW[2]["name"]}]
    assert response.metadata["table_schema"].startswith('CREATE TABLE "crew" ("id" INTEGER, "name" TEXT,')
    assert CREW[2]["name"] in response.text


async def test_one_record_more_changes_the_result_and_two_runs_share_no_table() -> None:
    more = [*CREW, {**CREW[0], "id": 25, "age": 88}]
    for records in (CREW, more, CREW):
        response = await ask("What is the maximum age of the crew?", records)
        assert response.metadata["results"] == [{"max_age": max(each["age"] for each in records)}]


async def test_the_model_sees_two_records_and_then_the_result_and_never_the_rest() -> None:
    asked: list[Asked] = []

    def keep(prompt: str) -> Rule:
        def rule(request: Asked) -> Any:
            asked.append(request)
            return RULES[prompt](request)

        return rule

    await ask("What is the maximum age of the crew?", CREW, {prompt: keep(prompt) for prompt in RULES}, table_name="crew")
    to_write, to_answer = asked
    assert [each["name"] in to_write.text for each in CREW] == [True, True] + [False] * (len(CREW) - 2)
    assert not any(each["name"] in to_answer.text for each in CREW)
    assert tagged(to_answer.text, "result").splitlines() == ["max_age", str(max(each["age"] for each in CREW))]


# --- records of all kinds ---


async def test_what_a_record_lacks_is_left_out_of_the_count() -> None:
    records = [{"name": "Ada", "age": 30}, {"name": "Bo"}, {"age": 70, "extra": {"deep": [1]}}]
    assert (await ask("What is the maximum age?", records)).metadata["results"] == [{"max_age": 70}]
    assert (await ask("How many are older than 20?", records)).metadata["results"] == [{"count": 2}]


@pytest.mark.parametrize(
    "key",
    [
        'age"); DROP TABLE items; --',
        "select",
        "two words",
        "",
        "a,b",
        "x TEXT)",
        "ä'ö",
        "name; SELECT 1",
        "NAME",  # for SQLite the same as `name`
    ],
)
async def test_a_key_may_be_called_anything(key: str) -> None:
    records = [{"name": "Ada", "age": 30, key: 1}, {"name": "Bo", "age": 40, key: 2}]
    response = await ask("What is the maximum age?", records)
    assert list(response.metadata["results"][0].values()) == [40]
    whole = await ask("Who is there?", records, {"sql": lambda asked: "SELECT * FROM items"})
    assert [list(row.values()) for row in whole.metadata["results"]] == [["Ada", 30, 1], ["Bo", 40, 2]]


@pytest.mark.parametrize("records", [[], [{}]])
async def test_a_list_without_records_is_refused(records: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="there are no records"):
        await ask(QUESTION, records)


@pytest.mark.parametrize(("question", "records"), [("", CREW), (QUESTION, None)])
async def test_a_run_without_a_question_or_records_is_refused(question: str, records: Any) -> None:
    with pytest.raises(ValueError, match="needs a question and records"):
        await ask(question, records)


# --- statements that are none ---


@pytest.mark.parametrize("statement", ["SELECT salary FROM items", "DROP TABLE items", "SELECT 1; SELECT 2", "I do not know."])
async def test_a_wrong_statement_ends_the_run_with_the_statement_in_error_and_span(statement: str) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    configure(middleware=[Tracing(provider)])
    with pytest.raises(SqlError) as caught:
        await ask(QUESTION, CREW, {"sql": lambda asked: statement})
    provider.shutdown()
    assert caught.value.statement == statement
    [span] = [span for span in kept.get_finished_spans() if span.name == "run_step jsonalyzer"]
    assert dict(span.attributes or {})["tracedflow.user.sql"] == statement
    assert span.status.status_code is StatusCode.ERROR


async def test_a_question_that_the_records_do_not_answer_runs_no_statement() -> None:
    assert await ask("Who sang?", CREW) == Response(text="The records hold no answer.")


# --- as a program ---


def test_records_of_ones_own_are_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "boats.json"
    file.write_text(json.dumps([{"name": "Gull", "length": 12}, {"name": "Tern", "length": 9}]))
    assert main(["--records", str(file), "What is the longest length?"]) == 0
    out, _ = capsys.readouterr()
    assert out == 'The max length is 12.\nSQL: SELECT MAX("length") AS max_length FROM "boats"\n'


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [("{", 2, "Wrong input"), ('{"a": 1}', 2, "no list of records"), ("[1]", 2, "no list of records"), ("[]", 3, "holds no record")],
)
def test_a_file_that_holds_no_records_is_named(
    text: str, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "records.json"
    file.write_text(text)
    assert main(["--records", str(file)]) == status
    err = capsys.readouterr().err
    assert said in err
    assert "records.json" in err


def test_a_file_that_there_is_not_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--records", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err
