"""One safetensors shard written from another, block by block: what is changed in float32, the rest copied as it is."""

from __future__ import annotations

import errno
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import threadpoolctl

from finch_hub import errors
from finch_hub.formats.safetensors_header import TensorInfo, write_safetensors_header
from finch_hub.formats.tensor_file import STORAGE, Float32, TensorFile, round_into, to_float32

_BLOCK = 2**18  # elements; as float32 a block and its update fit the second-level cache of usual processors
_COPY = 2**25  # bytes copied at a time, so that progress shows
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)

Progress = Callable[[int, int], None]
Change = Callable[[Float32, Float32, slice], None]
"""``change(values, scratch, rows)`` changes these rows of a tensor, float32 ``[rows, columns]``, in place; it may use
the scratch of the same shape, and runs in several threads at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One tensor to be written: where its bytes come from, and what is done to it on the way.

    `change` is called once, when the tensor's turn comes, and returns the function that works on its blocks; None
    copies the bytes.
    """

    source: TensorInfo
    change: Callable[[], Change] | None = None

    @property
    def nbytes(self) -> int:
        """Length of the tensor in the file."""
        return self.source.end - self.source.start


class Pool:
    """A thread for each processor with its own buffers, so that reads, arithmetic and writes overlap.

    Args:
        total: bytes that will be written in all.
        progress: called with the bytes done and `total`, from the thread that writes the shards.

    """

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self._threads = min(os.cpu_count() or 1, 8)
        self._progress, self._done, self._total = progress, 0, total
        self._own = threading.local()

    def __enter__(self) -> Pool:
        # The products are thin: with threads of its own, BLAS spends most of the time waiting for them.
        self._limits = threadpoolctl.threadpool_limits(1, user_api="blas")
        self._executor = ThreadPoolExecutor(self._threads)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._limits.restore_original_limits()

    def run(self, tasks: Iterator[Callable[[], int]]) -> None:
        """Run the tasks, each of which returns the bytes it wrote; few wait at a time, the first error ends all."""
        waiting: queue.SimpleQueue[Future[int]] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(self._executor.submit(task))
            if waiting.qsize() > 2 * self._threads:
                self._finish(waiting.get())
        while not waiting.empty():
            self._finish(waiting.get())

    def buffers(self, elements: int) -> tuple[memoryview, Float32, Float32]:
        """Return this thread's memory for a block: bytes as stored, values, and scratch for its update."""
        if getattr(self._own, "elements", 0) < elements:
            self._own.elements = max(elements, _BLOCK)
            self._own.arrays = (
                memoryview(bytearray(4 * self._own.elements)),
                np.empty(self._own.elements, np.float32),
                np.empty(self._own.elements, np.float32),
            )
        stored, values, scratch = self._own.arrays
        return stored, values[:elements], scratch[:elements]

    def _finish(self, future: Future[int]) -> None:
        self._done += future.result()
        if self._progress is not None:
            self._progress(self._done, self._total)


def write(pool: Pool, source: TensorFile, path: Path, pieces: Mapping[str, Piece]) -> None:
    """Write one shard of tensors by name, with the source's metadata.

    Raises:
        InvalidInput: the source ends early or cannot be read.
        Incompatible: a changed tensor is not finite in its dtype.
        OSError: the disk is full or the file cannot be written.

    """
    header, order = write_safetensors_header({name: piece.source for name, piece in pieces.items()}, source.metadata)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):  # a full disk is met here, before any work
            os.posix_fallocate(fd, 0, len(header) + sum(piece.nbytes for piece in pieces.values()))
        _write_all(fd, memoryview(header), 0)
        pool.run(_tasks(pool, source, fd, {name: pieces[name] for name in order}, len(header)))
    finally:
        os.close(fd)


def _tasks(
    pool: Pool, source: TensorFile, fd: int, pieces: Mapping[str, Piece], to: int
) -> Iterator[Callable[[], int]]:
    for name, piece in pieces.items():
        if piece.change is None:
            for done in range(0, piece.nbytes, _COPY):
                count = min(_COPY, piece.nbytes - done)
                yield functools.partial(_copy, source, fd, piece.source.start + done, to + done, count)
        else:
            yield from _blocks(pool, source, fd, name, piece, piece.change(), to)
        to += piece.nbytes


def _blocks(
    pool: Pool, source: TensorFile, fd: int, name: str, piece: Piece, change: Change, to: int
) -> Iterator[Callable[[], int]]:
    info = piece.source
    rows = info.shape[0]
    row_bytes = piece.nbytes // rows
    columns = row_bytes // STORAGE[info.dtype].itemsize
    step = max(1, _BLOCK // columns)

    def work(first: int) -> int:
        block = slice(first, min(first + step, rows))
        count, offset = block.stop - block.start, block.start * row_bytes
        stored, values, scratch = pool.buffers(count * columns)
        stored = stored[: count * row_bytes]
        source.read_into(stored, info.start + offset)
        numbers = np.frombuffer(stored, STORAGE[info.dtype])
        to_float32(numbers, info.dtype, out=values)
        with np.errstate(all="ignore"):  # what is not finite is looked for and reported
            change(values.reshape(count, columns), scratch.reshape(count, columns), block)
            finite = np.isfinite(values.sum()) or np.isfinite(values).all()  # the sum alone nearly always says it
        if not (finite and round_into(numbers, values, scratch, info.dtype)):
            fix = "lower the weights of the adapters"
            problem = errors.Problem(where=name, what="the merged weight is not finite", fix=fix)
            raise errors.Incompatible(problem)
        _write_all(fd, stored, to + offset)
        return len(stored)

    return (functools.partial(work, first) for first in range(0, rows, step))


def _copy(source: TensorFile, fd: int, start: int, to: int, count: int) -> int:
    done = 0
    while done < count:
        try:
            moved = os.copy_file_range(source.fd, fd, count - done, start + done, to + done)
        except (AttributeError, OSError) as error:
            # Not every system, nor every pair of file systems, can copy within the kernel.
            if isinstance(error, OSError) and error.errno not in _NO_KERNEL_COPY:
                raise
            buffer = memoryview(bytearray(min(count - done, 2**23)))
            source.read_into(buffer, start + done)
            _write_all(fd, buffer, to + done)
            moved = len(buffer)
        if moved == 0:
            source.read_into(memoryview(bytearray(1)), start + done)  # says where it ends
        done += moved
    return count


def _write_all(fd: int, data: memoryview, to: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], to + done)
