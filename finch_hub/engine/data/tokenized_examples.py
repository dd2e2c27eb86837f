"""Token ids of examples with labels; many examples are kept in a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, overload

import numpy as np
from numpy.typing import NDArray

from finch_hub.engine.data.data_files import close_temporary, translate_write_errors

MAX_TOKENS_IN_MEMORY = 2**24
"""Tokens of the examples that are kept in memory, 150 MB; each example counts as 64 more."""
_OVERHEAD_TOKENS = 64
_ID_BYTES, _TOKEN_BYTES = 4, 5  # of an id, and of an id with its label


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedExample:
    """Token ids of one example.

    Attributes:
        input_ids: int64 [length].
        labels: whether each token has loss, bool [length]. The first token has none, because no token predicts it.
        cut: number of tokens that were removed to fit the maximum length.
        changes: what the chat template drops or changes in the example, in words.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.bool_]
    cut: int = 0
    changes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)


class TokenizedExamples(Sequence[TokenizedExample]):
    """Tokenized examples in their order.

    If they have more than `MAX_TOKENS_IN_MEMORY`, they are in a temporary file, from which each access makes a new
    object without `changes`.
    """

    def __init__(self, examples: Iterable[TokenizedExample] = ()) -> None:
        self._kept: list[TokenizedExample] = []
        self._file: IO[bytes] | None = None
        self._begins = array("Q", [0])  # places of the examples in tokens, and their end
        self._cuts = array("Q")
        for example in examples:
            self.append(example)

    def __len__(self) -> int:
        return len(self._cuts)

    def __iter__(self) -> Iterator[TokenizedExample]:
        if self._file is None:
            yield from self._kept
        else:
            yield from map(self._read, range(len(self)))

    @overload
    def __getitem__(self, place: int) -> TokenizedExample: ...

    @overload
    def __getitem__(self, place: slice) -> list[TokenizedExample]: ...

    def __getitem__(self, place: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if self._file is None:
            return self._kept[place]
        if isinstance(place, slice):
            return [*map(self._read, range(len(self))[place])]
        return self._read(range(len(self))[place])

    @property
    def is_in_memory(self) -> bool:
        """Whether each access returns the same object."""
        return self._file is None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, int64 [examples]."""
        begins = np.array(self._begins, dtype=np.int64)
        return begins[1:] - begins[:-1]

    def append(self, example: TokenizedExample) -> None:
        """Add an example at the end."""
        self._begins.append(self._begins[-1] + len(example))
        self._cuts.append(example.cut)
        if self._file is not None:
            self._write(example)
            return
        self._kept.append(example)
        if self._begins[-1] + _OVERHEAD_TOKENS * len(self) > MAX_TOKENS_IN_MEMORY:
            self._move_to_file()

    def _move_to_file(self) -> None:
        with translate_write_errors():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - the finalizer closes it
        weakref.finalize(self, close_temporary, self._file)
        for example in self._kept:
            self._write(example)
        self._kept = []

    def _write(self, example: TokenizedExample) -> None:
        with translate_write_errors():
            self._open_file.write(example.input_ids.astype(np.int32).tobytes() + example.labels.tobytes())

    def _read(self, place: int) -> TokenizedExample:
        begin, end = self._begins[place], self._begins[place + 1]
        with translate_write_errors():
            self._open_file.flush()
        data = os.pread(self._open_file.fileno(), _TOKEN_BYTES * (end - begin), _TOKEN_BYTES * begin)
        ids = np.frombuffer(data, dtype=np.int32, count=end - begin).astype(np.int64)
        labels = np.frombuffer(data, dtype=np.bool_, offset=ids.size * _ID_BYTES).copy()
        return TokenizedExample(input_ids=ids, labels=labels, cut=self._cuts[place])

    @property
    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            raise AssertionError("the examples are in memory")
        return self._file
