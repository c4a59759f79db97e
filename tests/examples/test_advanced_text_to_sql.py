from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from examples._kit.cli import CORPUS, NotFoundError, Stage
from examples._kit.messages import Asked
from examples._kit.model import Rule, ScriptedModel
from examples._kit.scripts.advanced_text_to_sql import RULES
from examples._kit.sql import Database, SqlError, load_tables
from examples.advanced_text_to_sql import (
    TABLES,
    Answer,
    Progress,
    TableCatalog,
    TableInfo,
    TableRetrieveEvent,
    TextToSQL,
    TextToSQLWithRows,
    main,
    play,
)
from tests.examples.cases.advanced_text_to_sql import table, vessel
from tracedflow import Context, StartEvent, configure, step
from tracedflow.representation import get_workflow_representation
from tracedflow.telemetry import Tracing
from tracedflow.testing import run_step

NAME = "advanced_text_to_sql"
VESSELS = table(CORPUS, "vessels")


class KeepingModel(ScriptedModel):
    """Keeps what it is asked, and in which threads."""

    seconds_per_word = 0.0

    def __init__(self, rules: dict[str, Rule] | None = None) -> None:
        super().__init__({f"{NAME}.{prompt}": rule for prompt, rule in (rules or {}).items()})
        self.asked: list[Asked] = []
        self.threads: set[int] = set()

    def _reply(self, asked: Asked, wanted: Any) -> Any:
        self.asked.append(asked)
        self.threads.add(threading.get_ident())
        return super()._reply(asked, wanted)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return load_tables(tmp_path / "town.db", CORPUS)


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    with Database(file, seconds=0.05) as opened:
        yield opened


async def infos_of(database: Database) -> list[TableInfo]:
    infos: list[TableInfo] = await TableCatalog(KeepingModel(), database, timeout=60).run()
    return infos


async def ask(question: str, database: Database, rules: dict[str, Rule] | None = None, kind: type[TextToSQL] = TextToSQLWithRows) -> Any:
    """Return the handler of a run that has ended, well or not."""
    handler = kind(KeepingModel(rules), database, await infos_of(database), timeout=60).run(query=question)
    with suppress(SqlError):
        await handler
    return handler


# --- the catalog ---


async def test_each_table_is_described_under_its_own_name(database: Database) -> None:
    renamed = {"table_info": lambda asked: {"table_name": "town_things", "table_summary": RULES["table_info"](asked)["table_summary"]}}
    for rules in (None, renamed):
        infos = await TableCatalog(KeepingModel(rules), database, timeout=60).run()
        assert [info.table_name for info in infos] == sorted(path.stem for path in (CORPUS / "tables").iterdir())
    assert "delay minutes" in next(info for info in infos if info.table_name == "crossings").table_summary


@pytest.mark.parametrize(
    ("question", "right"),
    [
        ("What is the greatest length of a vessel?", "vessels"),
        ("How many kilograms of the fish cod were landed?", "landings"),
        ("Which apple tree belongs to the pupil Bo Crane?", "pupils"),
        ("Who is the holder of the stall with honey?", "stalls"),
        ("How many passengers took the crossing on 2023-05-03?", "crossings"),
        ("For how many hours was the lamp lit on 1993-11-02?", "lamp_log"),
        ("Who borrowed the book Salt?", "loans"),
        ("Which pier has the berth with the highest fee?", "berths"),
    ],
)
@pytest.mark.parametrize("kind", [TextToSQL, TextToSQLWithRows])
async def test_the_right_table_is_among_the_three_that_the_model_is_shown(
    kind: type[TextToSQL], question: str, right: str, database: Database
) -> None:
    workflow = kind(KeepingModel(), database, await infos_of(database))
    made = await run_step(workflow, kind.retrieve_tables, StartEvent(query=question))
    context = made.returned.table_context_str
    assert context.count("CREATE TABLE") == TABLES < len(database.tables)
    assert f"CREATE TABLE {right} (" in context
    assert context.count("<rows ") == (TABLES if kind is TextToSQLWithRows else 0)


# --- statements ---


@pytest.mark.parametrize(
    ("question", "truth"),
    [
        ("Who is the owner of the vessel Bramble?", lambda: vessel(CORPUS, "Bramble")["owner"]),
        ("How many vessels are of the kind ferry?", lambda: sum(row["kind"] == "ferry" for row in VESSELS)),
        ("What is the greatest length of a vessel?", lambda: max(float(row["length_m"]) for row in VESSELS)),
        (
            "How many kilograms of the fish cod were landed?",
            lambda: sum(int(row["kilograms"]) for row in table(CORPUS, "landings") if row["fish"] == "cod"),
        ),
        (
            "What is the fee for the berth of the vessel Lady Sill?",
            lambda: next(int(row["fee_marks"]) for row in table(CORPUS, "berths") if row["vessel_id"] == vessel(CORPUS, "Lady Sill")["id"]),
        ),
        (
            "How many passengers crossed on 2023-05-03?",
            lambda: next(int(row["passengers"]) for row in table(CORPUS, "crossings") if row["day"] == "2023-05-03"),
        ),
    ],
)
async def test_what_is_found_is_what_plain_python_finds_in_the_files(
    question: str, truth: Callable[[], object], database: Database
) -> None:
    answer: Answer = (await ask(question, database)).result()
    assert answer.rows == [(truth(),)]
    assert str(truth()) in answer.text
    assert answer.sql.startswith("SELECT")


async def test_a_name_that_is_spelt_otherwise_is_found_only_by_the_rows_that_show_it(database: Database) -> None:
    question = "Who is the owner of the Marrowbell?"
    assert (await ask(question, database, kind=TextToSQL)).result().rows == []
    answer = (await ask(question, database, kind=TextToSQLWithRows)).result()
    assert answer.rows == [(vessel(CORPUS, "M.V. Marrow-Bell")["owner"],)]
    assert "'M.V. Marrow-Bell'" in answer.sql


def test_another_way_to_find_tables_leaves_the_graph_as_it_was() -> None:
    one, other = (get_workflow_representation(kind) for kind in (TextToSQL, TextToSQLWithRows))
    assert {node.id for node in one.nodes} == {node.id for node in other.nodes}
    assert {(edge.source, edge.target) for edge in one.edges} == {(edge.source, edge.target) for edge in other.edges}


async def test_a_statement_that_fails_goes_back_with_the_error_and_comes_out_right(database: Database) -> None:
    handler = await ask("What is the greatest length of a vessel?", database)
    steps = [record.step for record in handler.record]
    assert steps == ["retrieve_tables", "generate_sql", "generate_response", "generate_sql", "generate_response"]
    assert handler.result().rows == [(max(float(row["length_m"]) for row in VESSELS),)]


async def test_the_second_prompt_holds_what_sqlite_said(database: Database) -> None:
    asked: list[Asked] = []

    def keep(request: Asked) -> str:
        asked.append(request)
        return RULES["sql"](request)

    await ask("What is the greatest length of a vessel?", database, {"sql": keep})
    assert len(asked) == 2
    assert "<failed" not in asked[0].text
    assert "no such column: length" in asked[1].text


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE vessels",
        "DELETE FROM vessels",
        "ATTACH DATABASE 'other.db' AS other",
        "SELECT 1; DROP TABLE vessels",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    ],
)
async def test_what_is_not_one_read_that_ends_is_refused_twice_and_then_the_run_fails(
    statement: str, file: Path, database: Database
) -> None:
    before = state_of(file.parent)
    handler = await ask("What is the greatest length of a vessel?", database, {"sql": lambda asked: f"```sql\n{statement};\n```"})
    error = handler.exception()
    assert isinstance(error, SqlError)
    assert error.statement == statement
    assert [record.step for record in handler.record].count("generate_sql") == 2
    assert state_of(file.parent) == before


def state_of(folder: Path) -> dict[str, str]:
    """Return what is in a folder: names and hashes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


async def test_the_span_that_failed_has_the_statement(database: Database) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    configure(middleware=[Tracing(provider)])
    await ask("What is the greatest length of a vessel?", database, {"sql": lambda asked: "DROP TABLE vessels"})
    provider.shutdown()
    spans = [span for span in kept.get_finished_spans() if span.name == "run_step generate_response"]
    assert [dict(span.attributes or {})["tracedflow.user.sql"] for span in spans] == ["DROP TABLE vessels"] * 2
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET, StatusCode.ERROR]


async def test_a_question_that_the_tables_do_not_answer_runs_no_statement(database: Database) -> None:
    handler = await ask("Who painted the moon?", database)
    assert handler.result() == Answer(text="The tables hold no answer.", sql="", rows=[])
    assert [record.step for record in handler.record] == ["retrieve_tables", "generate_sql"]


# --- plain functions as steps ---


async def test_plain_functions_run_beside_the_loop_and_stream_in_order(database: Database) -> None:
    threads: set[int] = set()

    class Watched(TextToSQLWithRows):
        @step
        def retrieve_tables(self, ctx: Context, ev: StartEvent) -> TableRetrieveEvent:
            threads.add(threading.get_ident())
            return super().retrieve_tables(ctx, ev)

    model = KeepingModel()
    handler = Watched(model, database, await infos_of(database), timeout=60).run(query="What is the greatest length of a vessel?")
    texts = [event.text async for event in handler.stream_events() if isinstance(event, Progress)]
    assert threading.get_ident() not in threads | model.threads
    assert threads
    assert texts[0].startswith("tables: ")
    assert [text.split()[0] for text in texts[1:]] == ["SELECT", "SELECT"]
    assert texts[-1] == (await handler).sql


# --- as a program ---


async def test_where_both_statements_fail_the_example_says_which() -> None:
    model = KeepingModel({"sql": lambda asked: "SELECT weight FROM vessels"})
    with pytest.raises(NotFoundError, match="no such column: weight: SELECT weight FROM vessels"):
        await play(Stage(model, question="What is the greatest length of a vessel?"))


def test_without_rows_the_misspelt_name_is_not_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert main(["--no-rows"]) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("SQL: SELECT owner")
    assert "WHERE name = 'Marrowbell'" in err
