"""Examples with a system prompt, made at each access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from finch_hub.engine.data.chat import with_system
from finch_hub.specs.examples import Example


class PromptedExamples(Sequence[Example]):
    """Examples that begin with a system turn, unless they have one or are plain texts. It keeps none of them.

    Args:
        examples: examples, such as those of a file.
        system: system prompt; None adds none.
    """

    def __init__(self, examples: Sequence[Example], system: str | None) -> None:
        self._examples, self._system = examples, system

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return map(self._add_system, self._examples)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Example, ...]: ...

    def __getitem__(self, place: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(place, slice):
            return tuple(map(self._add_system, self._examples[place]))
        return self._add_system(self._examples[place])

    def _add_system(self, example: Example) -> Example:
        return example.evolve(messages=with_system(example.messages, self._system)) if example.messages else example
