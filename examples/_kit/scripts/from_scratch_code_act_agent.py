"""The rule of `from_scratch_code_act_agent`: a program for the question, what to do about its error, or the answer from its result.

It uses the function that an earlier program of the talk defined, and when it is told to use "your function" it takes for
granted that there is one, until a NameError says otherwise.
"""

from __future__ import annotations

import ast
import re

from ..messages import Asked
from ..reading import tagged
from .assistant import NOT_FOUND, TOOLS, sum_in

FIBONACCI = """\
def fibonacci(count):
    numbers = [0, 1]
    while len(numbers) < count:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers[:count]
"""


def act(asked: Asked) -> str:
    at, question = [(at, m.content) for at, m in enumerate(asked.messages) if m.role == "user" and "<result>" not in m.content][-1]
    results = [tagged(m.content, "result") for m in asked.messages[at:] if "<result>" in m.content]
    if not results:
        known = any("def fibonacci" in message.content for message in asked.messages[1:at]) or "your function" in question
        code = program(question, known=known)
        return f"I will work it out.\n<execute>\n{code}</execute>" if code else NOT_FOUND
    if "NameError" in results[-1] and "fibonacci" in results[-1]:
        return f"The function is not there yet.\n<execute>\n{program(question, known=False)}</execute>"
    if results[-1].startswith("Error"):
        return f"That cannot be done. {results[-1]}"
    return f"The result is {results[-1]}."


def program(question: str, *, known: bool) -> str:
    if found := re.search(r"first (\d+) Fibonacci", question):
        return f"{'' if known else FIBONACCI}print(sum(fibonacci({found[1]})))\n"
    if found := re.search(r"from (\d+) to (\d+)", question):
        return f"print(sum(range({found[1]}, {found[2]} + 1)))\n"
    if re.search(r"\bfiles?\b", question):
        return "import os\nprint(os.listdir('.'))\n"
    if re.search(r"\bforever\b", question):
        return "count = 0\nwhile True:\n    count = count + 1\n"
    sum_ = sum_in(question)
    return f"print({as_calls(sum_)})\n" if sum_ is not None else ""


def as_calls(node: ast.expr) -> str:
    """Return a sum as calls of the functions that the interpreter has."""
    if isinstance(node, ast.BinOp) and type(node.op) in TOOLS:
        return f"{TOOLS[type(node.op)]}({as_calls(node.left)}, {as_calls(node.right)})"
    return ast.unparse(node)


RULES = {"act": act}
