"""How rules write SQL: from a question and the tables that the prompt shows to one SELECT, by templates. For rules only.

A value of the question goes into the statement as the question spells it, unless a row in the prompt shows how the table does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from .reading import content_words, stem, tagged

_THE_COLUMN = "\0"  # in a condition, before it is known whether the table has to be named
_NAME = r'"(?:[^"]|"")+"|\w+'
_COLUMN = re.compile(rf"({_NAME}) (INTEGER|REAL|TEXT)(?: PRIMARY KEY)?(?: REFERENCES (\w+)\(id\))?")
_LITERAL = re.compile(r"'([^']+)'|\b(\d{4}-\d{2}(?:-\d{2})?)\b|(?<=[a-z] )([A-Z][\w.'-]*(?: [A-Z][\w.'-]*)*)")
_BOUND = re.compile(r"\b(more than|over|above|older than|at least|less than|under|below|younger than)\b\D{0,16}?(\d+)")
_BEGINNING = re.compile(r"(?: number)?(?: that)? (?:begins?|starts?) with ")
_SIGNS = {"at least": ">=", "less than": "<", "under": "<", "below": "<", "younger than": "<"}
_AGGREGATES = {
    "MAX": "maximum max greatest highest longest largest oldest latest most",
    "MIN": "minimum min least lowest shortest smallest youngest earliest",
    "AVG": "average mean",
    "SUM": "total sum altogether",
}


@dataclass
class Column:
    table: str
    name: str  # as it stands in a statement, quoted where it has to be
    kind: str
    refers_to: str = ""  # the table whose id it holds

    @property
    def plain(self) -> str:
        return self.name.strip('"').replace('""', '"')

    @property
    def words(self) -> list[str]:
        return content_words(self.plain.replace("_", " "))

    def is_in(self, question: str) -> float:
        """Return how much of the name the question has, 0 to 1; of a name and its unit, `length_m`, the name is enough."""
        asked, words = set(content_words(question)), self.words
        if self.refers_to or not words or words == ["id"]:
            return 0.0
        return sum(word in asked for word in words) / len(words) if words[0] in asked else 0.0


@dataclass
class Table:
    name: str
    columns: list[Column]
    rows: list[dict[str, str]] = field(default_factory=list)  # those that the prompt shows


def tables_in(prompt: str) -> list[Table]:
    """Return the tables of the CREATE TABLE statements in a prompt, with the rows between `<rows table="...">` and `</rows>`."""
    tables = []
    for name, body in re.findall(rf"^CREATE TABLE ({_NAME}) \((.*)\)", prompt, re.MULTILINE):
        table = Table(name, [Column(name, *found) for found in _COLUMN.findall(body)])
        shown = re.search(rf'<rows table="{re.escape(name.strip(chr(34)))}">\n(.*?)\n</rows>', prompt, re.DOTALL)
        for line in shown[1].splitlines()[1:] if shown else ():
            table.rows.append(dict(zip([column.name for column in table.columns], line.split(" | "), strict=False)))
        tables.append(table)
    return tables


def select_for(prompt: str, *, careless: bool = False) -> str:
    """Return a SELECT that answers the question in a prompt, "" if it is about nothing that the tables have.

    `careless` forgets the units in names of columns: `length` for `length_m`.
    """
    question, tables = tagged(prompt, "question"), tables_in(prompt)
    literals = _literals(question, tables)
    columns = [column for table in tables for column in table.columns]
    mentioned = sorted((c for c in columns if c.is_in(question)), key=lambda c: -c.is_in(question))
    conditions = [(column, _condition(column, value, question, tables)) for value, column in literals] + _bounds(question, columns)
    used = [id(column) for column, _ in conditions]
    wanted = [column for column in mentioned if id(column) not in used]
    if not (mentioned or conditions or any(set(content_words(question)) & set(content_words(table.name)) for table in tables)):
        return ""
    table = _table_of(question, tables, wanted or [column for column, _ in conditions])
    others = list(dict.fromkeys(column.table for column, _ in conditions if column.table != table.name))
    where = " AND ".join(text.replace(_THE_COLUMN, _full(column, others)) for column, text in conditions)
    what, group = _target(question, [c for c in wanted if c.table == table.name], where, others, careless)
    if what.startswith("ROUND"):
        where = ""
    joins = "".join(_join(table, other, tables) for other in others)
    return f"SELECT {what} FROM {table.name}{joins}{f' WHERE {where}' if where else ''}{group}"


def _target(question: str, wanted: list[Column], where: str, others: list[str], careless: bool) -> tuple[str, str]:
    """Return what is selected, and how it is grouped."""
    asked = re.findall(r"\w+", question.lower())
    column = next((c for c in wanted if c.kind != "TEXT"), None)
    named = "" if not wanted else _careless(wanted[0]) if careless else _full(wanted[0], others)
    if found := re.search(r"\b(?:each|every|per|by) (\w+)", question):
        group = next((c for c in wanted if stem(found[1].lower()) in c.words), None)
        if group is not None:
            return f"{group.name}, COUNT(*) AS count", f" GROUP BY {group.name} ORDER BY {group.name}"
    if "percentage" in asked:
        return f"ROUND(100.0 * SUM({where}) / COUNT(*), 2) AS percentage", ""
    for function, words in _AGGREGATES.items():
        if column is not None and set(words.split()) & set(asked):
            name, label = _careless(column) if careless else _full(column, others), re.sub(r"\W+", "_", column.name).strip("_")
            return f"{function}({name}) AS {function.lower()}_{label}", ""
    if "how many" in question.lower():
        return (f"SUM({named}) AS {wanted[0].name}", "") if column is not None and wanted[0] is column else ("COUNT(*) AS count", "")
    return named or "*", ""


def _careless(column: Column) -> str:
    return column.name.partition("_")[0]


def _full(column: Column, others: list[str]) -> str:
    return f"{column.table}.{column.name}" if others else column.name


def _table_of(question: str, tables: list[Table], wanted: list[Column]) -> Table:
    asked = set(content_words(question))

    def score(table: Table) -> float:
        named = bool(asked & set(content_words(table.name.replace("_", " "))))
        return 2.0 * named + sum(column.is_in(question) * 3 for column in wanted if column.table == table.name)

    return max(tables, key=score)


def _join(table: Table, other: str, tables: list[Table]) -> str:
    other_table = next(each for each in tables if each.name == other)
    for column in table.columns:
        if column.refers_to == other:
            return f" JOIN {other} ON {table.name}.{column.name} = {other}.id"
    for column in other_table.columns:
        if column.refers_to == table.name:
            return f" JOIN {other} ON {other}.{column.name} = {table.name}.id"
    return f", {other}"


# --- the values in a question ---


def _literals(question: str, tables: list[Table]) -> list[tuple[str, Column]]:
    found = [next(filter(None, groups)) for groups in _LITERAL.findall(question)]
    text_columns = [column for table in tables for column in table.columns if column.kind == "TEXT"]
    for column in text_columns:  # `of the kind trawler`
        after = re.findall(rf"\b{re.escape(column.plain)} ([a-z]+)\b(?=[ ?.,])", question)
        found += [word for word in after if content_words(word) and word != "number" and not any(word in c.words for c in text_columns)]
    placed = [_place(value, question, tables) for value in dict.fromkeys(found)]
    return [each for each in placed if each is not None]


def _place(value: str, question: str, tables: list[Table]) -> tuple[str, Column] | None:
    """Return a value as its table spells it, and its column: where a row shows one like it, else where its like would be."""
    begins = re.search(rf"{_BEGINNING.pattern}'?{re.escape(value)}", question)
    for table in tables:
        for row in table.rows if not begins else ():
            for column in table.columns:
                if column.kind == "TEXT" and not row.get(column.name, "").startswith("[") and _alike(value, row.get(column.name, "")):
                    return row[column.name], column
    columns = [column for table in tables for column in table.columns if column.kind == "TEXT"]
    before, _, after = question.partition(value)
    before = re.sub(rf"{_BEGINNING.pattern}'?$", "", before)
    last = content_words(next(iter(re.findall(r"\w+", before)[-1:]), ""))
    named = [column for column in columns if column.plain == "name"]
    places = (
        [column for column in columns if re.match(r"\d{4}-", value) and column.words[0] in ("day", "month", "borrow", "date")],
        [column for column in columns if set(column.words) & set(last)],  # the book Salt
        [column for column in named if set(content_words(column.table)) & set(last)],  # the pupil Bo Crane
        [column for column in columns if column.is_in(after)],  # has Norse among its languages
        [column for column in named if any(other.is_in(before) for other in columns if other.table == column.table)],
        named,
    )
    return next(((value, found[0]) for found in places if found), None)


def _alike(value: str, shown: str) -> bool:
    one, other = (re.sub(r"[\W_]", "", text.lower()) for text in (value, shown))
    return len(one) > 3 and len(other) > 3 and (one in other or SequenceMatcher(None, one, other).ratio() > 0.75)


def _condition(column: Column, value: str, question: str, tables: list[Table]) -> str:
    """Return the condition that a column has a value, begins with it, or, if a row shows a list, has it among others."""
    rows = next(table.rows for table in tables if table.name == column.table)
    text = value.replace("'", "''")
    if re.search(rf"{_BEGINNING.pattern}'?{re.escape(value)}", question):
        return f"{_THE_COLUMN} LIKE '{text}%'"
    if any(row.get(column.name, "").startswith("[") for row in rows):
        return f"EXISTS (SELECT 1 FROM json_each({_THE_COLUMN}) WHERE value = '{text}')"
    return f"{_THE_COLUMN} = '{text}'"


def _bounds(question: str, columns: list[Column]) -> list[tuple[Column, str]]:
    found = []
    for how, number in _BOUND.findall(question):
        numeric = [column for column in columns if column.kind != "TEXT"]
        near = [column for column in numeric if column.is_in(question)]
        if how in ("older than", "younger than"):
            near = [column for column in numeric if column.plain == "age"] or near
        if near:
            found.append((near[0], f"{_THE_COLUMN} {_SIGNS.get(how, '>')} {number}"))
    return found
