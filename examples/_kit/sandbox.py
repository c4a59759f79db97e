"""Runs short Python programs that a model wrote, in a child process that keeps its variables from one to the next.

Isolation for a demonstration, not a security boundary: a list of allowed syntax before anything runs, an interpreter without
site-packages and with few builtins, limits on memory and processor time, and an end by force when time is up. What must hold
against an attacker belongs into a virtual machine.
"""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path

_CHILD = Path(__file__).parent / "sandbox_child.py"
_ALLOWED_NODES = (
    # statements
    ast.Module, ast.Expression, ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.Pass, ast.Break, ast.Continue,
    ast.If, ast.For, ast.While, ast.FunctionDef, ast.Return, ast.Raise, ast.Try, ast.ExceptHandler, ast.Assert, ast.Yield,
    # expressions
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword, ast.Constant, ast.Name, ast.Attribute,
    ast.Subscript, ast.Slice, ast.Starred, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Lambda, ast.ListComp, ast.SetComp,
    ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.JoinedStr, ast.FormattedValue, ast.NamedExpr, ast.arguments, ast.arg,
    # what belongs to them
    ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
_FORBIDDEN_ATTRIBUTES = {"format", "format_map", "gi_frame", "gi_code", "f_globals", "f_back", "f_builtins", "tb_frame", "mro"}


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a program: what it printed, the last expression as text, and the error as one line, or ""."""

    output: str
    value: str
    error: str


class Sandbox:
    """One child process, started when it is first needed, and again after it had to be ended; then its variables are gone.

    Args:
        prelude: a program that runs first in each process; it is trusted, and may import.
        seconds: how long a program may run.
        memory: bytes that the child may have.
    """

    def __init__(self, prelude: str = "", *, seconds: float = 2.0, memory: int = 512 * 1024 * 1024) -> None:
        self._prelude, self._seconds, self._memory = prelude, seconds, memory
        self._process: Process | None = None
        self._turn = asyncio.Lock()  # one program at a time: its answer is the next line

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def fresh(self) -> bool:
        """Whether the next program finds no variables: none ran yet, or the child had to be ended."""
        return self._process is None

    async def run(self, code: str) -> Ran:
        """Run a program; whatever is wrong with it is told in the result."""
        if problem := refusal(code):
            return Ran("", "", f"refused: {problem}")
        async with self._turn:
            process = self._process or await self._start()
            try:
                return await asyncio.wait_for(_ask(process, {"code": code}), self._seconds)
            except TimeoutError:
                await self.close()
                return Ran("", "", f"stopped after {self._seconds:g} s; all variables are gone")
            except (EOFError, ConnectionError):
                await self.close()
                return Ran("", "", "the interpreter ended, by its limits on memory or time; all variables are gone")
            except asyncio.CancelledError:
                await self.close()  # its answer would be read as that of the next program
                raise

    async def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()

    async def _start(self) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(_CHILD), stdin=PIPE, stdout=PIPE, env={}, cwd="/", limit=2**20
        )
        limits = {"prelude": self._prelude, "memory": self._memory, "cpu": int(10 * self._seconds) + 1}
        await asyncio.wait_for(_ask(self._process, limits), 10)
        return self._process


async def _ask(process: Process, request: dict[str, object]) -> Ran:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise EOFError
    return Ran(**json.loads(line))


def refusal(code: str) -> str:
    """Return why a program is not run at all, or ""."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            return f"line {node.lineno}: imports are not allowed"
        if not isinstance(node, _ALLOWED_NODES):
            return f"line {getattr(node, 'lineno', 1)}: {type(node).__name__} is not allowed"
        names = [name for name in (getattr(node, each, None) for each in ("id", "attr", "name", "arg")) if isinstance(name, str)]
        if any(name.startswith("_") or name in _FORBIDDEN_ATTRIBUTES for name in names):
            return f"line {getattr(node, 'lineno', 1)}: the name {names[0]} is not allowed"
    return ""
