"""Answers from tables: picks those that matter, has the model write SQL, runs it behind guards, and phrases what it found.

The steps are plain functions, so each runs in a thread of its own and may block, and still it streams and annotates as any step.
A statement that fails goes back to the model once, with what SQLite said. A subclass overrides one step and changes what the model
is shown: rows that are like the question, from which it learns how the tables spell a name. The graph stays the same.

```mermaid
flowchart LR
  start([StartEvent: query]) --> retrieve_tables -->|TableRetrieveEvent| generate_sql -->|TextToSQLEvent| generate_response
  generate_response -->|SqlFailedEvent, once| generate_sql
  generate_sql -->|NO STATEMENT| stop([StopEvent: an Answer])
  generate_response --> stop
```

Before that `TableCatalog` asks the model what each table is about: by that they are found. `python -m examples.advanced_text_to_sql
[QUESTION]`; `--no-rows` shows the model no rows. After LlamaIndex's example of that name, where the model names the tables too.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.retrieve import Chunk, HybridIndex, VectorIndex
from examples._kit.sql import Database, Rows, SqlError, load_tables, statement_in
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "Who is the owner of the Marrowbell?"
TABLES, ROWS = 3, 2  # shown to the model: tables, and rows of each

TABLE_INFO = """\
Say in one sentence what this table holds, for somebody who looks for the table that answers a question. Keep its name.

{schema}
<rows table="{name}">
{rows}
</rows>"""

SQL = """\
Write one SQLite SELECT that answers the question from these tables. Write the statement and nothing else. Use the columns that there
are, and spell values as the rows do, where rows are shown. If the tables hold no answer, write NO STATEMENT.

{tables}
{problem}
<question>{question}</question>"""

PROBLEM = """This statement failed: <failed error="{error}">{sql}</failed>"""

ANSWER = """\
Answer the question in one sentence from what the statement found.

<statement>{sql}</statement>
<found>
{found}
</found>
<question>{question}</question>"""


class TableInfo(BaseModel):
    table_name: str
    table_summary: str


class Answer(BaseModel):
    text: str
    sql: str
    rows: list[tuple[Any, ...]]

    def __str__(self) -> str:
        return f"{self.text}\nSQL: {self.sql}"


class TableEvent(Event):
    name: str


class TableInfoEvent(Event):
    info: TableInfo


class TableCatalog(Workflow):
    def __init__(self, model: Model, database: Database, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.database = model, database

    @step
    async def list_tables(self, ev: StartEvent) -> list[TableEvent]:
        return [TableEvent(name=name) for name in self.database.tables]

    @step(num_workers=8)
    async def describe_table(self, ev: TableEvent) -> TableInfoEvent:
        rows = self.database.sample(ev.name).as_text()
        prompt = TABLE_INFO.format(schema=self.database.schema(ev.name), name=ev.name, rows=rows)
        info = await self.model.structured(TableInfo, prompt, prompt_name="advanced_text_to_sql.table_info")
        return TableInfoEvent(info=info.model_copy(update={"table_name": ev.name}))

    @step
    async def collect_infos(self, infos: list[TableInfoEvent]) -> StopEvent:
        return StopEvent(result=sorted((each.info for each in infos), key=lambda info: info.table_name))


class TableRetrieveEvent(Event):
    table_context_str: str
    query: str


class TextToSQLEvent(Event):
    sql: str
    query: str
    table_context_str: str
    repaired: bool = False


class SqlFailedEvent(TextToSQLEvent):
    error: str


class Progress(Event):
    text: str


class TextToSQL(Workflow):
    """The model is shown the statements that made the tables, and what they are about."""

    def __init__(self, model: Model, database: Database, infos: Sequence[TableInfo], **options: Any) -> None:
        super().__init__(**options)
        self.model, self.database = model, database
        self.index = HybridIndex(
            Chunk(i.table_name, i.table_name, i.table_name, f"{i.table_summary} {database.schema(i.table_name)}") for i in infos
        )

    @step
    def retrieve_tables(self, ctx: Context, ev: StartEvent) -> TableRetrieveEvent:
        chosen = [hit.chunk for hit in self.index.search(ev.query, TABLES)]
        ctx.write_event_to_stream(Progress(text=f"tables: {', '.join(chunk.source for chunk in chosen)}"))
        context = "\n\n".join(f"{chunk.text.partition(' CREATE TABLE')[0]}\n{self.database.schema(chunk.source)}" for chunk in chosen)
        return TableRetrieveEvent(table_context_str=context, query=ev.query)

    @step
    def generate_sql(self, ctx: Context, ev: TableRetrieveEvent | SqlFailedEvent) -> TextToSQLEvent | StopEvent:
        failed = isinstance(ev, SqlFailedEvent)
        problem = PROBLEM.format(error=ev.error.replace('"', "'"), sql=ev.sql) if failed else ""
        prompt = SQL.format(tables=ev.table_context_str, problem=problem, question=ev.query)
        sql = statement_in(asyncio.run(self.model.complete(prompt, prompt_name="advanced_text_to_sql.sql")))
        if "NO STATEMENT" in sql:
            return StopEvent(result=Answer(text="The tables hold no answer.", sql="", rows=[]))
        ctx.write_event_to_stream(Progress(text=sql))
        return TextToSQLEvent(sql=sql, query=ev.query, table_context_str=ev.table_context_str, repaired=failed)

    @step
    def generate_response(self, ctx: Context, ev: TextToSQLEvent) -> StopEvent | SqlFailedEvent:
        ctx.annotate(sql=ev.sql)
        try:
            found = self.database.query(ev.sql)
        except SqlError as error:
            if ev.repaired:
                raise
            return SqlFailedEvent(sql=ev.sql, error=str(error), query=ev.query, table_context_str=ev.table_context_str)
        prompt = ANSWER.format(sql=ev.sql, found=found.as_text(), question=ev.query)
        text = asyncio.run(self.model.complete(prompt, prompt_name="advanced_text_to_sql.answer"))
        return StopEvent(result=Answer(text=text, sql=ev.sql, rows=found.rows))


class TextToSQLWithRows(TextToSQL):
    """And also rows that are like the question, so that the model sees how values are spelt."""

    def __init__(self, model: Model, database: Database, infos: Sequence[TableInfo], **options: Any) -> None:
        super().__init__(model, database, infos, **options)
        self.rows = {name: database.query(f'SELECT * FROM "{name}"') for name in database.tables}
        self.row_indexes = {
            name: VectorIndex(Chunk(f"{at:04}", name, "", " ".join(map(str, row))) for at, row in enumerate(found.rows))
            for name, found in self.rows.items()
        }

    @step
    def retrieve_tables(self, ctx: Context, ev: StartEvent) -> TableRetrieveEvent:
        tables = super().retrieve_tables(ctx, ev)
        chosen = re.findall(r"^CREATE TABLE (\w+)", tables.table_context_str, re.MULTILINE)
        context = "\n".join([tables.table_context_str, *(self.rows_like(ev.query, table) for table in chosen)])
        return TableRetrieveEvent(table_context_str=context, query=ev.query)

    def rows_like(self, query: str, table: str) -> str:
        all_rows, hits = self.rows[table], self.row_indexes[table].search(query, ROWS)
        near = Rows(all_rows.columns, [all_rows.rows[int(hit.chunk.id)] for hit in hits])
        return f'<rows table="{table}">\n{near.as_text()}\n</rows>'


async def play(stage: Stage) -> Answer:
    with tempfile.TemporaryDirectory() as folder, Database(load_tables(Path(folder, "town.db"), stage.data)) as database:
        infos = await stage.run(TableCatalog(stage.model, database, timeout=60))
        kind = TextToSQL if getattr(stage.arguments, "no_rows", False) else TextToSQLWithRows
        try:
            answer: Answer = await stage.run(kind(stage.model, database, infos, timeout=60), query=stage.question)
        except SqlError as error:
            raise NotFoundError(f"{stage.question} (the model's statement failed twice, {error}: {error.statement})") from error
    if all(value is None for row in answer.rows for value in row):
        raise NotFoundError(f"{stage.question} ({answer.sql or answer.text})")
    return answer


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-rows", action="store_true", help="show the model no rows of the tables")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
