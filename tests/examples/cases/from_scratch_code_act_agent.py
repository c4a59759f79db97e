from __future__ import annotations

import re
from itertools import islice

from tests.examples.cases import Ask, Case

FIBONACCI = "What is the sum of the first 20 Fibonacci numbers?"
RANGE = "What is the sum of all numbers from 3 to 1234?"
SUM = "What is (2123 + 2321) * 312 - 9?"


def fibonacci_numbers() -> list[int]:
    numbers = [0, 1]
    for _ in range(100):
        numbers.append(numbers[-2] + numbers[-1])
    return numbers


def fibonacci_sum(question: str) -> str:
    [count] = map(int, re.findall(r"\d+", question))
    return str(sum(islice(fibonacci_numbers(), count)))


def range_sum(question: str) -> str:
    first, last = map(int, re.findall(r"\d+", question))
    return str((first + last) * (last - first + 1) // 2)


def worked_out(question: str) -> str:
    a, b, c, d = map(int, re.findall(r"\d+", question))
    return str((a + b) * c - d)


CASE = Case(
    steps=("prepare_chat_history", "handle_llm_input", "handle_code_execution"),
    asks=[
        Ask(FIBONACCI, lambda data: fibonacci_sum(FIBONACCI)),
        Ask(RANGE, lambda data: range_sum(RANGE)),
        Ask(SUM, lambda data: worked_out(SUM)),
    ],
    calls={"from_scratch_code_act_agent.act": "handle_llm_input"},
)
