"""What the layers under the first adapted one make of an example: the same in every epoch, so computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from finch_hub.engine.data.tokenizing import TokenizedExample

# A constant, as whether states are kept shows in the bytes of the result. A thousand examples of 1,000 tokens take
# half of it in bfloat16 at a width of 1024.
_LIMIT = 4 * 2**30
# Tokens computed at once: enough for products to run at full speed, few enough to pass between two steps.
_CHUNK_TOKENS = 1024


class FrozenStates:
    """Hidden states of examples under the first adapted layer, kept over the epochs.

    Rounding depends on what is computed at once, so examples are computed with those that stand beside them in the
    data: the states are the same in every batch and after a resume.

    Args:
        examples: that will be asked for.

    """

    def __init__(self, examples: Sequence[TokenizedExample]) -> None:
        self._chunks = {example: chunk for chunk in _chunks(examples) for example in chunk}
        self._states: dict[TokenizedExample, Tensor] = {}

    @staticmethod
    def fit(examples: Sequence[TokenizedExample], *, width: int, itemsize: int) -> bool:
        """Tell whether the examples' states, of so many numbers of so many bytes a token, may be kept."""
        return sum(len(example) for example in examples) * width * itemsize <= _LIMIT

    def missing(self, examples: Sequence[TokenizedExample]) -> list[tuple[TokenizedExample, ...]]:
        """Return what is to be computed, each of them at once, before the examples' states are here."""
        lacking = [example for example in examples if example not in self._states]
        return list(dict.fromkeys(self._chunks.get(example, (example,)) for example in lacking))

    def keep(self, chunk: Sequence[TokenizedExample], states: Sequence[Tensor]) -> None:
        """Keep the states of one of the missing."""
        self._states.update(zip(chunk, states, strict=True))

    def of(self, example: TokenizedExample) -> Tensor:
        """Return the example's states [length, d], which are here."""
        return self._states[example]


def _chunks(examples: Sequence[TokenizedExample]) -> Iterator[tuple[TokenizedExample, ...]]:
    """Divide the examples, as they stand, into chunks of so many tokens."""
    chunk: list[TokenizedExample] = []
    for example in examples:
        if chunk and sum(map(len, chunk)) + len(example) > _CHUNK_TOKENS:
            yield tuple(chunk)
            chunk = []
        chunk.append(example)
    if chunk:
        yield tuple(chunk)
