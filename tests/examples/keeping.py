"""The scripted model without its pauses, which keeps what it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from examples._kit.messages import Asked, Reply, Wanted
from examples._kit.model import Rule, ScriptedModel


class KeepingModel(ScriptedModel):
    seconds_per_word = 0.0

    def __init__(self, rules: Mapping[str, Rule] | None = None) -> None:
        super().__init__(rules)
        self.asked: list[Asked] = []

    def _reply(self, asked: Asked, wanted: Wanted) -> AsyncIterator[str | Reply]:
        self.asked.append(Asked(list(asked.messages), asked.tools, asked.prompt_name))
        return super()._reply(asked, wanted)

    def of(self, prompt_name: str) -> list[Asked]:
        """Return what one prompt was asked."""
        return [asked for asked in self.asked if asked.prompt_name == prompt_name]
