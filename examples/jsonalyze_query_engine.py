"""Answers questions about a list of JSON records: they become a table, the model writes SQL for it, and phrases what that finds.

Sums and shares are counted by SQLite and not by a model, which sees two of the records and then the result. The records may be
uneven and their keys called anything; lists and objects inside them become JSON text, which SQL can look into. The result
holds the statement that was run, and so does the span of the step, also if it failed.

```mermaid
flowchart LR
  start([StartEvent: query, list_of_dict, table_name]) --> jsonalyzer -->|JsonAnalyzerEvent| synthesize --> stop([StopEvent: a Response])
  jsonalyzer -->|NO STATEMENT| stop
```

`python -m examples.jsonalyze_query_engine [QUESTION]`; `--records FILE` asks about records of your own. After LlamaIndex's example
"JSONalyze Query Engine".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, WrongInputError, run_example
from examples._kit.model import Model
from examples._kit.sql import Database, Rows, SqlError, load_records, statement_in
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "What percentage of the crew is older than 50?"
SHOWN = 2  # records, so that the model sees what is a list and how values are spelt

SQL = """\
Write one SQLite SELECT that answers the question from this table. Write the statement and nothing else. Lists and objects are JSON
text: use json_each and json_extract. Round percentages to two decimals. If the table holds no answer, write NO STATEMENT.

{schema}
<rows table="{table}">
{rows}
</rows>
<question>{question}</question>"""

ANSWER = """\
Answer the question in one sentence from the result of the statement, and from nothing else.

<statement>{sql}</statement>
<result>
{results}
</result>
<question>{question}</question>"""


class JsonAnalyzerEvent(Event):
    sql_query: str
    table_schema: str
    results: Rows


class Response(BaseModel):
    text: str
    metadata: dict[str, Any] = {}  # sql_query, table_schema, results: a list of records

    def __str__(self) -> str:
        return f"{self.text}\nSQL: {self.metadata.get('sql_query', 'none')}"


class JSONAnalyzeQueryEngine(Workflow):
    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    @step
    async def jsonalyzer(self, ctx: Context, ev: StartEvent) -> JsonAnalyzerEvent | StopEvent:
        query, records, table = ev.get("query"), ev.get("list_of_dict"), ev.get("table_name") or "items"
        if not query or records is None:
            raise ValueError("a run needs a question and records: run(query=..., list_of_dict=[...])")
        await ctx.store.set("query", query)
        with tempfile.TemporaryDirectory() as folder:
            file = await asyncio.to_thread(load_records, Path(folder, "records.db"), table, records)
            with Database(file) as database:
                sql = statement_in(await self.write_sql(query, database))
                if "NO STATEMENT" in sql:
                    return StopEvent(result=Response(text="The records hold no answer."))
                ctx.annotate(sql=sql)
                return JsonAnalyzerEvent(
                    sql_query=sql, table_schema=database.schema(), results=await asyncio.to_thread(database.query, sql)
                )

    async def write_sql(self, query: str, database: Database) -> str:
        [table] = database.tables
        prompt = SQL.format(schema=database.schema(), table=table, rows=database.sample(table, SHOWN).as_text(), question=query)
        return await self.model.complete(prompt, prompt_name="jsonalyze_query_engine.sql")

    @step
    async def synthesize(self, ctx: Context, ev: JsonAnalyzerEvent) -> StopEvent:
        prompt = ANSWER.format(sql=ev.sql_query, results=ev.results.as_text(), question=await ctx.store.get("query"))
        text = await self.model.complete(prompt, prompt_name="jsonalyze_query_engine.answer")
        results = [dict(zip(ev.results.columns, row, strict=True)) for row in ev.results.rows]
        return StopEvent(
            result=Response(text=text, metadata={"sql_query": ev.sql_query, "table_schema": ev.table_schema, "results": results})
        )


def read_records(file: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongInputError(f"{file}: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise WrongInputError(f"{file} holds no list of records, such as [{{...}}, {{...}}]")
    if not any(records):
        raise NotFoundError(f"{file} holds no record, so no answer")
    return records


async def play(stage: Stage) -> Response:
    file = getattr(stage.arguments, "records", None) or stage.data / "crew.json"
    records = read_records(file)
    engine = JSONAnalyzeQueryEngine(stage.model, timeout=60)
    try:
        response: Response = await stage.run(engine, query=stage.question, list_of_dict=records, table_name=file.stem)
    except SqlError as error:
        raise NotFoundError(f"{stage.question} (the model's statement failed, {error}: {error.statement})") from error
    if all(value is None for row in response.metadata.get("results", []) for value in row.values()):
        raise NotFoundError(f"{stage.question} ({response.metadata.get('sql_query', response.text)})")
    return response


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, metavar="FILE", help="a JSON file, a list of objects, in place of the crew of the ferries")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
