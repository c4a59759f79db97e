"""Rules of `jsonalyze_query_engine`: a statement by templates, from the schema and the rows in the prompt; the result in a sentence."""

from __future__ import annotations

from ..messages import Asked
from ..reading import tagged
from ..sql_reading import select_for


def sql(asked: Asked) -> str:
    return select_for(asked.text) or "NO STATEMENT"


def answer(asked: Asked) -> str:
    columns, *rows = tagged(asked.text, "result").splitlines()
    names = [name.replace("_", " ") for name in columns.split(" | ")]
    if len(rows) == 1:
        return f"The {', the '.join(f'{name} is {value}' for name, value in zip(names, rows[0].split(' | '), strict=False))}."
    return f"By {' and '.join(names)}: {', '.join(row.replace(' | ', ' ') for row in rows)}." if rows else "Nothing was found."


RULES = {"sql": sql, "answer": answer}
