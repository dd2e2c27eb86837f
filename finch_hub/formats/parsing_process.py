"""Parsing of untrusted files in a child process, whose memory and computing time are limited.

Readers of Parquet, GGUF and archives allocate what a file declares, and can crash on a damaged one. The child takes the
harm. It is a limit of resources and no sandbox: the child has all rights of its parent.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

from finch_hub import errors, progress

T = TypeVar("T")
_BOOTSTRAP = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from finch_hub.formats import parsing_process; parsing_process.serve(int(sys.argv[1]))"
)
# Threads reserve memory that they do not use, so their number would decide how much is left for the file.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_WATCH_SECONDS = 0.02


class Limits(NamedTuple):
    """Limits of a child.

    Attributes:
        memory: bytes beyond those that its libraries take.
        seconds: computing time for each value that it yields.
    """

    memory: int = 2**30
    seconds: int = 60


class _End(NamedTuple):
    """Last message of a child: its error, if it has one."""

    error: BaseException | None = None


class _OutOfMemory(NamedTuple):
    """Last message of a child that reached its limit."""


def parse(
    call: partial[Iterator[T]],
    *,
    limits: Limits,
    error: type[errors.InvalidInput],
    subject: str = "",
    libraries: Sequence[str] = (),
    files: Sequence[int] = (),
) -> Iterator[T]:
    """Yield what a function yields in a child process, and tell its progress.

    Args:
        call: function of a module, with its arguments. These and what it yields are pickled.
        error: class of the error if the file takes too much memory or time, or crashes its reader.
        subject: name of the file in this error.
        libraries: modules that the child imports before its memory is limited.
        files: numbers of open files that the child inherits.

    Raises:
        InvalidInput: of the class `error`. Exceptions of the function are raised, too.
    """
    read, write = os.pipe()
    command = [sys.executable, "-P", "-c", _BOOTSTRAP, str(write)]
    with contextlib.ExitStack() as stack:
        messages = stack.enter_context(os.fdopen(read, "rb"))
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(write, *files),
                env={**os.environ, **_ENVIRONMENT},
            )
        finally:
            os.close(write)
        stack.callback(_end, child)
        with contextlib.suppress(BrokenPipeError):
            orders = cast(IO[bytes], child.stdin)
            for part in (sys.path, (libraries, limits), call):
                pickle.dump(part, orders)
            orders.close()
        last = yield from _receive(messages)
        if isinstance(last, _End) and last.error is not None:
            raise last.error
        if not isinstance(last, _End):
            reason = _describe_end(child, last, limits)
            fix = "it is damaged or hostile; fetch it again, or convert it where you trust it"
            raise error(reason, fix=fix, subject=subject)


def _receive(messages: IO[bytes]) -> Generator[Any, None, object]:
    """Yield the values of a child, and return its last message; None if there is none."""
    meters: dict[str, tuple[progress.Meter, int]] = {}
    while True:
        try:
            message = pickle.load(messages)  # noqa: S301 - of a process of this program
        except (EOFError, pickle.UnpicklingError):
            return None
        if isinstance(message, (_End, _OutOfMemory)):
            return message
        if isinstance(message, progress.Advance):
            meter, done = meters.get(message.work) or (progress.Meter(message.work), 0)
            meter.total = message.total
            meter.add(message.done - done)
            meters[message.work] = meter, message.done
        else:
            yield message


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    with contextlib.suppress(BrokenPipeError):
        cast(IO[bytes], child.stdin).close()
    child.wait()


def _describe_end(child: subprocess.Popen[bytes], last: object, limits: Limits) -> str:
    child.wait()
    if isinstance(last, _OutOfMemory) or child.returncode == -signal.SIGKILL:
        return f"takes more than {limits.memory // 2**20:,} MiB of memory to read"
    if child.returncode == -signal.SIGXCPU:
        return f"takes more than {limits.seconds} seconds to read a part of it"
    return f"crashed its reader, which ended with {_name_end(child.returncode)}"


def _name_end(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"code {code}"


def serve(number: int) -> None:
    """Call the function that stands on standard input, and write what it yields.

    Args:
        number: of the pipe for messages.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    orders = sys.stdin.buffer
    with open(number, "wb") as messages, contextlib.suppress(BrokenPipeError):
        try:
            _serve(orders, messages)
            last: object = _End()
        except MemoryError:
            last = _OutOfMemory()
        except BrokenPipeError:
            return
        except Exception as error:
            last = _End(_portable(error))
        _send(messages, last)


def _serve(orders: IO[bytes], messages: IO[bytes]) -> None:
    libraries, limits = pickle.load(orders)  # noqa: S301 - of the parent
    for name in libraries:
        importlib.import_module(name)
    call = pickle.load(orders)  # noqa: S301 - of the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(limits.memory)
    progress.tell_at_once()
    with progress.listen(lambda advance: _send(messages, advance)):
        _limit_time(limits.seconds)
        for value in call():
            _send(messages, value)
            _limit_time(limits.seconds)


def _send(messages: IO[bytes], message: object) -> None:
    messages.write(pickle.dumps(message))
    messages.flush()


def _portable(error: Exception) -> Exception:
    """Return an error in a form that can be unpickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - to try it
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _limit_memory(budget: int) -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:  # macOS does not enforce RLIMIT_AS
        limit = _peak_bytes() + budget
        threading.Thread(target=_watch_memory, args=(limit,), daemon=True).start()
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = pages * resource.getpagesize() + budget
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _watch_memory(limit: int) -> None:
    """End this process when it has had more memory than the limit."""
    while _peak_bytes() <= limit:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _limit_time(seconds: int) -> None:
    """Let the system end this process after so much more computing time."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = int(time.process_time()) + 1 + seconds
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
