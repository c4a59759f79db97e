"""Events as mappings, with fields of any type, validators, private attributes, computed fields and nested models."""

import asyncio
from typing import Any, Optional, Union

from pydantic import BaseModel, Field, PrivateAttr, computed_field, field_validator

from tracedflow import Workflow, step
from tracedflow.events import Event, StartEvent, StopEvent


class Llm:
    """An object that pydantic knows nothing of."""

    def __init__(self, name: str) -> None:
        self.name = name


class Source(BaseModel):
    url: str
    score: float = 0.0


class Retrieved(Event):
    """What was found."""

    query: str
    sources: list[Source] = Field(default_factory=list)
    llm: Llm
    _seen: int = PrivateAttr(default=0)

    @field_validator("query")
    @classmethod
    def strip(cls, value: str) -> str:
        return value.strip()

    @computed_field
    def best(self) -> Optional[str]:  # noqa: UP045 - the idiom
        return max(self.sources, key=lambda source: source.score).url if self.sources else None


class Nothing(Event):
    pass


class Flow(Workflow):
    @step
    async def retrieve(self, ev: StartEvent) -> Union[Retrieved, Nothing]:  # noqa: UP007 - the idiom
        assert ev.query == ev["query"] == ev.get("query")
        assert "query" in ev
        assert ev.get("top_k", 3) == 3
        if not ev.get("sources"):
            return Nothing(reason="no sources")
        return Retrieved(query=ev.query, sources=ev.sources, llm=ev.llm, _seen=2, extra={"k": 1})

    @step
    async def answer(self, ev: Retrieved) -> StopEvent:
        ev.note = "added later"
        return StopEvent(
            result={
                "query": ev.query,
                "best": ev.best,
                "llm": ev.llm.name,
                "seen": ev._seen,
                "extra": ev.extra["k"],
                "keys": sorted(ev.keys()),
                "declared is no key": ev.get("query"),
            }
        )

    @step
    async def give_up(self, ev: Nothing) -> StopEvent:
        return StopEvent(ev.reason)


async def main() -> Any:
    w = Flow()
    found = await w.run(query="  who? ", sources=[{"url": "a", "score": 0.1}, Source(url="b", score=0.9)], llm=Llm("tiny"))
    nothing = await w.run(query="who?")
    return found, nothing, str(StopEvent(result=7)), bool(Nothing())


if __name__ == "__main__":
    print(asyncio.run(main()))
