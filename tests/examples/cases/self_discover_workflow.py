from __future__ import annotations

import re

from tests.examples.cases import Ask, Case

FRUIT = (
    "Tilda has 15 plums. She gives 4 plums to her sister and swaps 3 plums for 6 pears with a neighbour. She throws away 2 plums "
    "that are rotten. At the market she buys 12 plums and 5 pears, and later she gives 2 pears to a friend. "
    "How many plums and pears does Tilda have in the end?"
)
NETS = "Otto has 4012 nets and 733 buoys. He sells 1200 nets and loses 81 buoys. Then he buys 305 more buoys. How many has he?"


def plums(task: str) -> str:
    has, gives, swaps, _pears, rotten, buys, *_ = map(int, re.findall(r"\d+", task))
    return f"{has - gives - swaps - rotten + buys} plums"


def pears(task: str) -> str:
    _, _, _, swapped, _, _, bought, given = map(int, re.findall(r"\d+", task))
    return f"{swapped + bought - given} pears"


def nets(task: str) -> str:
    has, _, sold, *_ = map(int, re.findall(r"\d+", task))
    return f"{has - sold} nets"


def buoys(task: str) -> str:
    _, has, _, lost, bought = map(int, re.findall(r"\d+", task))
    return f"{has - lost + bought} buoys"


CASE = Case(
    steps=("get_modules", "refine_modules", "create_reasoning_structure", "get_final_result"),
    asks=[
        Ask(FRUIT, lambda data: plums(FRUIT)),
        Ask(FRUIT, lambda data: pears(FRUIT)),
        Ask(NETS, lambda data: nets(NETS)),
        Ask(NETS, lambda data: buoys(NETS)),
    ],
    calls={
        "self_discover_workflow.select": "get_modules",
        "self_discover_workflow.adapt": "refine_modules",
        "self_discover_workflow.implement": "create_reasoning_structure",
        "self_discover_workflow.solve": "get_final_result",
    },
)
