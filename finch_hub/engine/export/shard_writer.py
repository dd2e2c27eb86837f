"""Writer of safetensors shards from other shards, with changes in float32 blocks."""

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
from finch_hub.formats.float_conversion import Float32, round_into, to_float32
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.formats.safetensors_header import NUMPY_CODES, TensorInfo, write_safetensors_header

_BLOCK_ELEMENTS = 2**18  # a float32 block and its update fit the second-level cache of usual processors
_COPY_BYTES = 2**25  # small enough to show progress
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)

Progress = Callable[[int, int], None]
BlockChange = Callable[[Float32, Float32, slice], None]
"""``change(values, scratch, rows)`` changes rows of a tensor, float32 ``[rows, columns]``, in place. It may overwrite
`scratch`, which has the same shape. Several threads call it at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputTensor:
    """One tensor of the output.

    Attributes:
        source: its bytes in the source shard.
        load_change: called once, when the tensor's turn comes; None copies the bytes.
    """

    source: TensorInfo
    load_change: Callable[[], BlockChange] | None = None


class ShardWriter:
    """Writer with a thread and buffers for each processor.

    Reads, arithmetic and writes overlap.

    Args:
        total: bytes of all shards.
        progress: called with the bytes done and `total`, from the thread that writes the shards.
    """

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self._num_threads = min(os.cpu_count() or 1, 8)
        self._progress, self._done, self._total = progress, 0, total
        self._local = threading.local()

    def __enter__(self) -> ShardWriter:
        # The matrices are thin, so BLAS threads would mostly wait for each other.
        self._limits = threadpoolctl.threadpool_limits(1, user_api="blas")
        self._executor = ThreadPoolExecutor(self._num_threads)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._limits.restore_original_limits()

    def write(self, source: SafetensorsFile, path: Path, tensors: Mapping[str, OutputTensor]) -> None:
        """Write one shard with the source's metadata.

        Raises:
            InvalidInput: the source ends early or cannot be read.
            Incompatible: a changed tensor is not finite in its dtype.
            OSError: the disk is full or the file cannot be written.
        """
        infos = {name: tensor.source for name, tensor in tensors.items()}
        header, order = write_safetensors_header(infos, source.metadata)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk fails here, before the work
                os.posix_fallocate(fd, 0, len(header) + sum(tensor.source.nbytes for tensor in tensors.values()))
            _write_all(fd, memoryview(header), 0)
            self._run(self._tasks(source, fd, {name: tensors[name] for name in order}, len(header)))
        finally:
            os.close(fd)

    def _run(self, tasks: Iterator[Callable[[], int]]) -> None:
        """Run tasks that return the bytes they wrote. Keep the queue short; stop at an error."""
        waiting: queue.SimpleQueue[Future[int]] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(self._executor.submit(task))
            if waiting.qsize() > 2 * self._num_threads:
                self._finish(waiting.get())
        while not waiting.empty():
            self._finish(waiting.get())

    def _finish(self, future: Future[int]) -> None:
        self._done += future.result()
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _tasks(
        self, source: SafetensorsFile, fd: int, tensors: Mapping[str, OutputTensor], to: int
    ) -> Iterator[Callable[[], int]]:
        for name, tensor in tensors.items():
            if tensor.load_change is None:
                for done in range(0, tensor.source.nbytes, _COPY_BYTES):
                    count = min(_COPY_BYTES, tensor.source.nbytes - done)
                    yield functools.partial(_copy, source, fd, tensor.source.start + done, to + done, count)
            else:
                yield from self._block_tasks(source, fd, name, tensor.source, tensor.load_change(), to)
            to += tensor.source.nbytes

    def _block_tasks(
        self, source: SafetensorsFile, fd: int, name: str, info: TensorInfo, change: BlockChange, to: int
    ) -> Iterator[Callable[[], int]]:
        rows, columns = info.shape[0], info.elements // info.shape[0]
        row_bytes = info.nbytes // rows
        step = max(1, _BLOCK_ELEMENTS // columns)

        def change_block(first: int) -> int:
            block = slice(first, min(first + step, rows))
            count, offset = block.stop - block.start, block.start * row_bytes
            buffer, values, scratch = self._buffers(count * columns)
            buffer = buffer[: count * row_bytes]
            source.read_into(buffer, info.start + offset)
            stored = np.frombuffer(buffer, NUMPY_CODES[info.dtype])
            to_float32(stored, info.dtype, out=values)
            with np.errstate(all="ignore"):  # results that are not finite are an error below
                change(values.reshape(count, columns), scratch.reshape(count, columns), block)
                finite = np.isfinite(values.sum()) or np.isfinite(values).all()  # the sum alone nearly always decides
            if not (finite and round_into(stored, values, scratch, info.dtype)):
                fix = "lower the weights of the adapters"
                raise errors.Incompatible("the merged weight is not finite", where=name, fix=fix)
            _write_all(fd, buffer, to + offset)
            return len(buffer)

        return (functools.partial(change_block, first) for first in range(0, rows, step))

    def _buffers(self, elements: int) -> tuple[memoryview, Float32, Float32]:
        """Return this thread's memory for a block: stored bytes, values, and scratch."""
        if getattr(self._local, "elements", 0) < elements:
            self._local.elements = max(elements, _BLOCK_ELEMENTS)
            self._local.arrays = (
                memoryview(bytearray(4 * self._local.elements)),
                np.empty(self._local.elements, np.float32),
                np.empty(self._local.elements, np.float32),
            )
        buffer, values, scratch = self._local.arrays
        return buffer, values[:elements], scratch[:elements]


def _copy(source: SafetensorsFile, fd: int, start: int, to: int, count: int) -> int:
    done = 0
    while done < count:
        try:
            moved = os.copy_file_range(source.fd, fd, count - done, start + done, to + done)
        except (AttributeError, OSError) as error:
            # Some systems and pairs of file systems cannot copy within the kernel.
            if isinstance(error, OSError) and error.errno not in _NO_KERNEL_COPY:
                raise
            buffer = memoryview(bytearray(min(count - done, 2**23)))
            source.read_into(buffer, start + done)
            _write_all(fd, buffer, to + done)
            moved = len(buffer)
        if moved == 0:
            source.read_into(memoryview(bytearray(1)), start + done)  # raises with the place where the file ends
        done += moved
    return count


def _write_all(fd: int, data: memoryview, to: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], to + done)
