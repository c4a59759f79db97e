"""An agent that acts by writing code: programs between tags are run, and what they print, or their error, is the next message.

The interpreter is a resource of the run: a child process with limits on syntax, time and memory, ended with the run. What
belongs to the talk is data: the messages, and the programs that went well. A run that finds an interpreter without variables
(the next run on the Context, one in another process, or after an endless loop) first runs those programs again, so functions
of earlier programs can be used. Isolation for a demonstration: see `examples/_kit/sandbox.py` for what it does not stop.

```mermaid
flowchart LR
  start([StartEvent: input]) --> prepare_chat_history -->|InputEvent| handle_llm_input
  handle_llm_input -->|CodeExecutionEvent| handle_code_execution -->|InputEvent| handle_llm_input
  handle_llm_input --> stop([StopEvent: a CodeActAnswer])
  handle_llm_input -.->|StreamEvent| stream[/stream/]
  handle_code_execution -.->|CodeExecutionEvent, CodeResultEvent| stream
```

`python -m examples.from_scratch_code_act_agent [QUESTION] [--then QUESTION]`. After LlamaIndex's example "Creating a CodeAct
Agent From Scratch".
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example, some_text
from examples._kit.model import Message, Model, assistant, system, user
from examples._kit.sandbox import Sandbox
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step
from tracedflow.resource import Resource

QUESTION = "What is the sum of the first 20 Fibonacci numbers?"
SECONDS = 2.0  # that one program may run

FUNCTIONS = '''\
def add(a, b):
    """Return a + b."""
    return a + b

def subtract(a, b):
    """Return a - b."""
    return a - b

def multiply(a, b):
    """Return a * b."""
    return a * b

def divide(a, b):
    """Return a / b."""
    return a / b
'''

SYSTEM = """\
Answer the last message of the user. To find something out, write a Python program between <execute> and </execute>, and stop;
you will be told what it printed. Functions and variables of earlier programs are still there. There are no imports and no
files, and these functions are defined already:

{functions}
Without a program, what you write is the answer. Write NOT FOUND if no program can find it."""

RESULT = "<result>{text}</result>"


class InputEvent(Event):
    input: list[Message]


class StreamEvent(Event):
    """A piece of what the model writes, for the stream."""

    delta: str


class CodeExecutionEvent(Event):
    code: str


class CodeResultEvent(Event):
    """What a program printed, or what was wrong with it, for the stream."""

    text: str
    failed: bool


class CodeActState(BaseModel):
    memory: list[Message] = []
    programs: list[str] = []  # those that went well, in order: they make the variables of an interpreter
    code: list[str] = []  # what the model wrote in this run
    turns: int = 0


class CodeActAnswer(BaseModel):
    response: str
    code: list[str]  # all programs of the run, also those that failed
    finished: bool  # False if the turns were used up

    def __str__(self) -> str:
        return self.response


async def interpreter() -> AsyncIterator[Sandbox]:
    async with Sandbox(FUNCTIONS, seconds=SECONDS) as sandbox:
        yield sandbox


class CodeActAgent(Workflow):
    """Answers `run(input=...)` with programs; `run(input=..., ctx=ctx)` goes on with an earlier talk."""

    def __init__(self, model: Model, *, max_turns: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.max_turns = model, max_turns

    @step
    async def prepare_chat_history(self, ctx: Context[CodeActState], ev: StartEvent) -> InputEvent:
        if not (text := ev.get("input")):
            raise ValueError("an agent needs something to answer: run(input=...)")
        async with ctx.store.edit_state() as state:
            state.code, state.turns = [], 0
            state.memory.append(user(text))
            return InputEvent(input=list(state.memory))

    @step
    async def handle_llm_input(self, ctx: Context[CodeActState], ev: InputEvent) -> CodeExecutionEvent | StopEvent:
        reply = ""
        messages = [system(SYSTEM.format(functions=FUNCTIONS)), *ev.input]
        async for piece in self.model.stream(messages, prompt_name="from_scratch_code_act_agent.act"):
            ctx.write_event_to_stream(StreamEvent(delta=piece))
            reply += piece
        code = code_in(reply)
        async with ctx.store.edit_state() as state:
            state.turns += 1
            out_of_turns = state.turns >= self.max_turns
            if code is not None and not out_of_turns:
                # A model may go on after its program, and make up what it gives: that is cut off.
                state.memory.append(assistant(reply.partition("</execute>")[0] + "</execute>"))
                state.code.append(code)
                return CodeExecutionEvent(code=code)
            text = reply if code is None else f"There was no answer after {state.turns} turns."
            state.memory.append(assistant(text))
            return StopEvent(result=CodeActAnswer(response=text, code=state.code, finished=code is None))

    @step
    async def handle_code_execution(
        self, ctx: Context[CodeActState], ev: CodeExecutionEvent, python: Annotated[Sandbox, Resource(interpreter, scope="run")]
    ) -> InputEvent:
        ctx.write_event_to_stream(ev)
        if python.fresh:
            for program in (await ctx.store.get_state()).programs:
                await python.run(program)
        ran = await python.run(ev.code)
        text = f"{ran.output}{ran.value}".strip() + (f"\nError: {ran.error}" if ran.error else "")
        text = text.strip() or "The program printed nothing."
        ctx.write_event_to_stream(CodeResultEvent(text=text, failed=bool(ran.error)))
        async with ctx.store.edit_state() as state:
            state.memory.append(user(RESULT.format(text=text)))
            state.programs += [] if ran.error else [ev.code]
            return InputEvent(input=list(state.memory))


def code_in(reply: str) -> str | None:
    """Return the program in a reply, without the fence that models like to put around it; None if there is none."""
    found = re.search(r"<execute>(.*?)(?:</execute>|\Z)", reply, re.DOTALL)
    return re.sub(r"^\s*```\w*\n|\n\s*```\s*$", "", found[1]).strip("\n") if found else None


async def play(stage: Stage) -> CodeActAnswer:
    agent = CodeActAgent(stage.model, timeout=120)
    ctx: Context[CodeActState] = Context(agent)
    for question in (stage.question, *getattr(stage.arguments, "then", ())):
        answer: CodeActAnswer = await stage.run(agent, input=question, ctx=ctx)
        if not answer.finished or "NOT FOUND" in answer.response:
            raise NotFoundError(question if answer.finished else answer.response)
    return answer


def talk_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--then", action="append", type=some_text, default=[], metavar="QUESTION", help="asked next, in the same talk")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=talk_flags)


if __name__ == "__main__":
    sys.exit(main())
