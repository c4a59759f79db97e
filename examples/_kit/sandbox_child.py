"""The other side of `sandbox.py`: reads a program a line (JSON), runs it, answers with a line. Started with `-I -S`."""

import ast
import contextlib
import io
import json
import resource
import sys
from typing import Any

BUILTINS = [
    "abs",
    "all",
    "any",
    "bool",
    "chr",
    "dict",
    "divmod",
    "enumerate",
    "filter",
    "float",
    "frozenset",
    "int",
    "isinstance",
    "iter",
    "len",
    "list",
    "map",
    "max",
    "min",
    "next",
    "ord",
    "pow",
    "print",
    "range",
    "repr",
    "reversed",
    "round",
    "set",
    "slice",
    "sorted",
    "str",
    "sum",
    "tuple",
    "zip",
    "True",
    "False",
    "None",
    "ArithmeticError",
    "AssertionError",
    "Exception",
    "IndexError",
    "KeyError",
    "LookupError",
    "NameError",
    "OverflowError",
    "RuntimeError",
    "StopIteration",
    "TypeError",
    "ValueError",
    "ZeroDivisionError",
]
LONGEST = 20_000  # letters of an output


def run(code: str, names: dict[str, Any]) -> dict[str, str]:
    """Run a program; return what it printed, its last expression, its error."""
    printed, value, error = io.StringIO(), "", ""
    try:
        tree = ast.parse(code)
        last = tree.body[-1] if tree.body else None
        with contextlib.redirect_stdout(printed):
            if isinstance(last, ast.Expr):
                tree.body.pop()
            exec(compile(tree, "<program>", "exec"), names)
            if isinstance(last, ast.Expr):
                found = eval(compile(ast.Expression(last.value), "<program>", "eval"), names)
                value = "" if found is None else repr(found)
    except BaseException as caught:  # noqa: BLE001 - whatever the program raises is its answer
        error = f"{type(caught).__name__}: {caught}"
    return {"output": printed.getvalue()[:LONGEST], "value": value[:LONGEST], "error": error[:LONGEST]}


def main() -> None:
    first = json.loads(sys.stdin.readline())
    trusted: dict[str, Any] = {}
    exec(first["prelude"], trusted)
    library = __builtins__ if isinstance(__builtins__, dict) else vars(__builtins__)
    names = {name: value for name, value in trusted.items() if not name.startswith("__")}
    names["__builtins__"] = {name: library[name] for name in BUILTINS}
    for kind, limit in ((resource.RLIMIT_AS, first["memory"]), (resource.RLIMIT_CPU, first["cpu"]), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(kind, (limit, limit))
    answers = sys.stdout
    answers.write('{"output": "", "value": "", "error": ""}\n')
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line)["code"], names)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
