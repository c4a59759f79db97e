"""Rules of `advanced_text_to_sql`: what a table is about, a statement by templates, what was found in a sentence.

The statement forgets the units in names of columns, `length` for `length_m`, until the prompt holds the error.
"""

from __future__ import annotations

from ..messages import Asked
from ..reading import tagged
from ..sql_reading import select_for, tables_in


def table_info(asked: Asked) -> dict[str, str]:
    [table] = tables_in(asked.text)
    columns = ", ".join(column.name.replace("_", " ") for column in table.columns)
    rows = "; ".join(", ".join(row.values()) for row in table.rows)
    return {"table_name": table.name, "table_summary": f"The {table.name.replace('_', ' ')} of the town: {columns}; such as {rows}."}


def sql(asked: Asked) -> str:
    statement = select_for(asked.text, careless="<failed" not in asked.text)
    return f"```sql\n{statement};\n```" if statement else "NO STATEMENT"


def answer(asked: Asked) -> str:
    columns, *rows = tagged(asked.text, "found").splitlines()
    names = [name.replace("_", " ") for name in columns.split(" | ")]
    found = [", ".join(f"{name} {value}" for name, value in zip(names, row.split(" | "), strict=False)) for row in rows]
    return f"The tables say: {'; '.join(found)}." if found else "The tables do not say."


RULES = {"table_info": table_info, "sql": sql, "answer": answer}
