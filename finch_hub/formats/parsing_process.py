"""Parsing of untrusted files in a child process, whose memory, computing time and silence are limited.

Readers of Parquet, GGUF and archives allocate what a file declares, and can crash on a damaged one. The child takes the
harm. It is a limit of resources and no sandbox: the child has all rights of its parent.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from finch_hub import errors, progress
from finch_hub.formats.atomic_writes import is_disk_full
from finch_hub.formats.installed_metadata import read_leniently

_BOOTSTRAP = (
    "import json, sys; order = json.loads(sys.stdin.readline()); sys.path[:] = order['path']; "
    "from finch_hub.formats import parsing_process; parsing_process.serve(int(sys.argv[1]), order)"
)
# Threads reserve memory that they do not use, so their number would decide how much is left for the file.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_WATCH_SECONDS = 0.02
_MOST_SILENCE = 10  # seconds for each second of computing time
_END_SECONDS = 10.0  # that a killed process may take to end
_READ_BYTES = 2**16
_LEAST_MEMORY = 2**18  # bytes without which an allocator gets no more
_FULL_SECONDS = 3
_REQUEST_BYTES = 2**22  # of memory that a library asks for at once, and is refused


class Limits(NamedTuple):
    """Limits of a child.

    Attributes:
        memory: bytes beyond those that its libraries take.
        seconds: computing time for each value that it yields. It may be silent for ten times as long, as while it waits
            for a disk.
    """

    memory: int = 2**30
    seconds: int = 60


Argument = str | int | bool | None

# The first letter of a message. A file may have taken over the child, so that its messages are JSON and texts alone.
_VALUE, _ADVANCE, _ERROR, _END, _MEMORY, _SILENCE, _FULL = b"v", b"a", b"e", b".", b"m", b"s", b"f"
_MAX_MESSAGE = 2**30  # bytes


def parse(
    function: Callable[..., Iterator[str]],
    *arguments: Argument,
    limits: Limits,
    error: type[errors.InvalidInput],
    subject: str = "",
    libraries: Sequence[str] = (),
    files: Sequence[int] = (),
) -> Generator[str, None, None]:
    """Yield the texts that a function yields in a child process, and tell its progress.

    Args:
        function: function of a module, which yields texts of one line, such as JSON.
        arguments: arguments of the function.
        error: class of the error if the file takes too much memory or time, or crashes its reader.
        subject: name of the file in this error.
        libraries: modules that the child imports before its memory is limited.
        files: numbers of open files that the child inherits.

    Raises:
        InvalidInput: of the class `error`.
        FinchError: the function raised it.
        OSError: the disk is full to which the function writes.
        RuntimeError: the function raised another error.
    """
    order = {
        "path": sys.path,
        "libraries": list(libraries),
        "limits": limits,
        "function": [function.__module__, function.__qualname__],
        "arguments": arguments,
    }
    read, write = os.pipe()
    command = [sys.executable, "-P", "-c", _BOOTSTRAP, str(write)]
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, read)
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
            orders.write(json.dumps(order).encode() + b"\n")
            orders.close()
        kind, text = yield from _receive(_read_lines(child.pid, read, _MOST_SILENCE * limits.seconds))
        if kind == _ERROR and (raised := _restore(text)) is not None:
            raise raised
        if kind == _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if kind != _END:
            reason = _describe_end(child, limits, kind)
            fix = "it is damaged or hostile; fetch it again, or convert it where you trust it"
            raise error(reason, fix=fix, subject=subject)


def _read_lines(pid: int, messages: int, silence: int) -> Iterator[bytes]:
    """Yield the lines of a child. The last one is `_SILENCE` if none comes for some seconds.

    It is `_MEMORY` if a silent child has no memory left: Python 3.11 may then handle its MemoryError without end.
    """
    line = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(messages, selectors.EVENT_READ)
        waited = full = 0  # second by second, since a worker suspends its child, and this process with it
        while waited < silence:
            if not selector.select(1.0):
                waited += 1
                full = full + 1 if _has_no_memory(pid) else 0
                if full == _FULL_SECONDS:
                    yield _MEMORY
                    return
                continue
            waited = full = 0
            data = os.read(messages, _READ_BYTES)
            *ends, begin = data.split(b"\n")
            for end in ends:
                yield bytes(line + end)
                line.clear()
            line += begin
            if not data or len(line) > _MAX_MESSAGE:
                return
    yield _SILENCE


def _has_no_memory(pid: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        limit, _ = resource.prlimit(pid, resource.RLIMIT_AS)
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # it has ended
        return False
    return limit != resource.RLIM_INFINITY and limit - pages * resource.getpagesize() < _LEAST_MEMORY


def _receive(lines: Iterator[bytes]) -> Generator[str, None, tuple[bytes, str]]:
    """Yield the values of a child, and return kind and text of its last message; nothing if there is none."""
    meters: dict[str, tuple[progress.Meter, int]] = {}
    for line in lines:
        kind, text = line[:1], line[1:].decode(errors="replace")
        if kind == _VALUE:
            yield text
        elif kind == _ADVANCE:
            try:
                work, done, total = json.loads(text)
                advance = progress.Advance(str(work), int(done), None if total is None else int(total), None)
            except (TypeError, ValueError, RecursionError):
                return b"", ""
            meter, before = meters.get(advance.work) or (progress.Meter(advance.work), 0)
            meter.total = advance.total
            meter.add(advance.done - before)
            meters[advance.work] = meter, advance.done
        else:
            return kind, text
    return b"", ""


def _restore(text: str) -> Exception | None:
    """Return the error of a child; None if no reader of this program has sent it."""
    try:
        data = json.loads(text)
        return RuntimeError(data) if isinstance(data, str) else errors.restore(data)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    with contextlib.suppress(BrokenPipeError):
        cast(IO[bytes], child.stdin).close()
    with contextlib.suppress(subprocess.TimeoutExpired):  # it waits in the kernel
        child.wait(_END_SECONDS)


def _describe_end(child: subprocess.Popen[bytes], limits: Limits, kind: bytes) -> str:
    if kind == _SILENCE:
        return f"is not read on for {_MOST_SILENCE * limits.seconds:,} seconds"
    too_large = f"takes more than {limits.memory // 2**20:,} MiB of memory to read"
    if kind == _MEMORY:
        return too_large
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:  # it closed its pipe and goes on
        return "crashed its reader, which does not end"
    if child.returncode == -signal.SIGKILL:
        return too_large
    if child.returncode == -signal.SIGXCPU:
        return f"takes more than {limits.seconds} seconds to read a part of it"
    return f"crashed its reader, which ended with {_name_end(child.returncode)}"


def _name_end(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"code {code}"


def serve(number: int, order: Mapping[str, Any]) -> None:
    """Call the function of an order, and write what it yields.

    Args:
        number: of the pipe for messages.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    with open(number, "wb") as messages, contextlib.suppress(BrokenPipeError):
        try:
            _serve(order, messages)
        except BrokenPipeError:
            return
        except MemoryError:
            _send(messages, _MEMORY)
        except Exception as error:
            if is_disk_full(error):
                _send(messages, _FULL)
            elif _had_no_memory():  # libraries raise nearly anything then
                _send(messages, _MEMORY)
            elif isinstance(error, errors.FinchError):
                _send(messages, _ERROR, json.dumps(error.to_json()))
            else:  # a bug, which the parent raises as one
                _send(messages, _ERROR, json.dumps(f"{type(error).__name__}: {error}"))
        else:
            _send(messages, _END)


def _serve(order: Mapping[str, Any], messages: IO[bytes]) -> None:
    read_leniently()
    limits, (module, name) = Limits(*order["limits"]), order["function"]
    for library in order["libraries"]:
        importlib.import_module(library)
    function = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(limits.memory)
    progress.tell_at_once()
    with progress.listen(lambda told: _send(messages, _ADVANCE, json.dumps([told.work, told.done, told.total]))):
        _limit_time(limits.seconds)
        for text in function(*order["arguments"]):
            _send(messages, _VALUE, text)
            _limit_time(limits.seconds)


def _send(messages: IO[bytes], kind: bytes, text: str = "") -> None:
    messages.write(kind + text.encode() + b"\n")
    messages.flush()


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


def _had_no_memory() -> bool:
    """Return whether this process has had all the memory that its limit allows, though it may have freed it since."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    peak = re.search(r"^VmPeak:\s*(\d+) kB$", status, re.MULTILINE)
    return limit != resource.RLIM_INFINITY and peak is not None and limit - int(peak[1]) * 1024 < _REQUEST_BYTES


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
