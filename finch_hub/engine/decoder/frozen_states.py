"""Cache of hidden states below the first adapted layer, which are the same in every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from finch_hub.engine.data.tokenized_examples import TokenizedExample, TokenizedExamples

# A constant, because caching shows in the bytes of the result. A thousand examples of 1,000 tokens take half of it in
# bfloat16 at a width of 1024.
_MAX_BYTES = 4 * 2**30
# Tokens computed at once: enough for products to run at full speed, few enough to be short between two steps.
_CHUNK_TOKENS = 1024


class FrozenStates:
    """Cache of the hidden states of examples below the first adapted layer.

    Rounding depends on the examples that are computed together. So the chunks follow the order of the data, and the
    states are the same in every batch and after a resume.
    """

    def __init__(self, examples: Sequence[TokenizedExample]) -> None:
        self._chunks = {example: chunk for chunk in _chunks(examples) for example in chunk}
        self._states: dict[TokenizedExample, Tensor] = {}

    @staticmethod
    def fits_limit(parts: Iterable[TokenizedExamples], *, width: int, itemsize: int) -> bool:
        """Return whether states of `width` numbers of `itemsize` bytes a token are below the memory limit.

        Examples that are not in memory themselves have no states there.
        """
        if not all(part.is_in_memory for part in parts):
            return False
        return sum(int(part.lengths.sum()) for part in parts) * width * itemsize <= _MAX_BYTES

    def missing(self, examples: Sequence[TokenizedExample]) -> list[tuple[TokenizedExample, ...]]:
        """Return the chunks to compute before all examples' states are cached."""
        uncached = [example for example in examples if example not in self._states]
        return list(dict.fromkeys(self._chunks.get(example, (example,)) for example in uncached))

    def add(self, chunk: Sequence[TokenizedExample], states: Sequence[Tensor]) -> None:
        """Cache the states of a chunk."""
        self._states.update(zip(chunk, states, strict=True))

    def get(self, example: TokenizedExample) -> Tensor:
        """Return the cached states [length, d] of an example."""
        return self._states[example]


def _chunks(examples: Sequence[TokenizedExample]) -> Iterator[tuple[TokenizedExample, ...]]:
    """Divide the examples into chunks of limited tokens, in order."""
    chunk: list[TokenizedExample] = []
    for example in examples:
        if chunk and sum(map(len, chunk)) + len(example) > _CHUNK_TOKENS:
            yield tuple(chunk)
            chunk = []
        chunk.append(example)
    if chunk:
        yield tuple(chunk)
