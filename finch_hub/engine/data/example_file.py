"""Examples in a file, so that a million of them need no memory."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self, overload

from finch_hub.engine.data import data_files
from finch_hub.engine.data.reading import dump_example
from finch_hub.formats.atomic_writes import scratch_folder, temporary_place
from finch_hub.specs.examples import Example


class ExampleFile(Sequence[Example]):
    """Examples in canonical form in a file, of which one at a time is in memory.

    Args:
        path: file of :func:`finch_hub.engine.data.reading.dump_examples`, to be read; None makes a temporary one to
            write, which a `with` statement closes.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._begins = array("Q")
        self._size = 0
        self._written: IO[bytes] | None = None
        self._stack = contextlib.ExitStack()
        if path is None:
            with data_files.translate_write_errors():
                self._path = self._stack.enter_context(scratch_folder(temporary_place())) / "examples.jsonl"
                self._written = self._path.open("wb")
            return
        self._path = path
        with path.open("rb") as lines:
            for line in lines:
                self._count(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._written is not None:
            data_files.close_temporary(self._written)
        self._stack.close()

    def __len__(self) -> int:
        return len(self._begins)

    def __iter__(self) -> Iterator[Example]:
        with self.path.open("rb") as lines:
            for line in lines:
                yield Example.of(line)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Example, ...]: ...

    def __getitem__(self, place: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(*place.indices(len(self))))
        with self.path.open("rb") as lines:
            lines.seek(self._begins[place])
            return Example.of(lines.readline())

    @property
    def path(self) -> Path:
        """The file, which has all examples that were added."""
        if self._written is not None:
            with data_files.translate_write_errors():
                self._written.flush()
        return self._path

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def add(self, example: Example) -> None:
        """Write an example at the end of a temporary file."""
        if self._written is None:
            raise AssertionError("a file that is only read has no place for an example")
        line = dump_example(example)
        with data_files.translate_write_errors():
            self._written.write(line)
        self._count(line)

    def _count(self, line: bytes) -> None:
        self._begins.append(self._size)
        self._size += len(line)
