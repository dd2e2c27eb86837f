"""Child processes: start, messages, memory and end, as the supervisor sees them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import psutil

from finch_hub.settings import Settings
from finch_hub.specs.value import JsonObject
from finch_hub.workers.supervision import descendants

if TYPE_CHECKING:
    from finch_hub.workers.supervision.orphan_cleanup import OrphanCleanup

log = logging.getLogger(__name__)

_TAIL_BYTES = 16_384
_READ_BYTES = 65_536
_MOST_READS = 64  # at a time
_LONGEST_MESSAGE = 64 * 2**20
_END_SECONDS = 10.0  # that a process may take to end after its pipes, as to release a device
_ORDER_MILLISECONDS = 50  # that a child which reads takes for what fits into the pipe
_TEXT = (str, type(None))
_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {  # of messages, by their types
    "ready": {},
    "event": {"event": dict},
    "done": {"outcome": dict, "warm_base": _TEXT},
    "failed": {
        "reason": str,
        "traceback": str,
        "retry": bool,
        "of_worker": bool,
        "of_any_job": bool,
        "unusable": _TEXT,
    },
    "stopped": {"why": str},
    "ended_together": {"warm_base": _TEXT},
    "heard": {},
}
_MEANINGS = {
    "SIGKILL": "which the kernel sends when memory runs out",
    "SIGPROF": "since a chat template, a tokenizer or a plugin worked on one row without end",
}
# OpenMP's threads spin while they wait for each other. On busy cores they take the time of the thread they wait for.
# Training with two threads on two idle cores made 950 tokens/s with libgomp's default, 640 without spinning and 1,000
# with this limit. Beside a busy process it made 33, 490 and 210.
_SHORT_SPIN = {"GOMP_SPINCOUNT": "20000"}


class ChildProcess(Protocol):
    """A child process, as the attempt that it works for uses it. :class:`Child` describes the members."""

    messages_fd: int
    output_fd: int
    warm_base: str | None
    idle_since: float | None

    @property
    def has_started(self) -> bool: ...  # noqa: D102 - as the others, described in Child
    @property
    def is_alive(self) -> bool: ...  # noqa: D102 - as the others, described in Child
    def send(self, **message: Any) -> None: ...  # noqa: D102
    def read_messages(self) -> Iterator[JsonObject | None]: ...  # noqa: D102
    def read_output(self) -> bool: ...  # noqa: D102
    def resident_bytes(self) -> int: ...  # noqa: D102
    def suspend(self) -> None: ...  # noqa: D102
    def resume(self) -> None: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102
    def last_output(self) -> str: ...  # noqa: D102
    def describe_end(self) -> str: ...  # noqa: D102


class Child(ChildProcess):
    """A process of :mod:`finch_hub.workers.child`, in a session and process group of its own.

    Orders go to its standard input. Messages come through a pipe of their own. Both are lines of JSON. The tail of
    standard output and error is kept. When the supervisor closes the input or dies, the child kills its process group.

    Args:
        environment: variables for the process, besides those of this process.
        orphan_cleanup: kills the child and its descendants if this process dies first.

    Attributes:
        messages_fd: readable when a message arrives, as `output_fd` is for output.
        warm_base: key of the base model that the child has loaded, None if unknown.
        idle_since: when the last job ended, by :func:`clock.elapsed`; None while the child works.
    """

    def __init__(self, environment: Mapping[str, str], *, orphan_cleanup: OrphanCleanup | None = None) -> None:
        prefix = "" if orphan_cleanup is None else orphan_cleanup.mark
        self._mark = f"{prefix}.{secrets.token_hex(8)}"
        read, write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finch_hub.workers.child", str(write)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                start_new_session=True,
                env={
                    **({} if "OMP_WAIT_POLICY" in os.environ else _SHORT_SPIN),
                    **os.environ,
                    **environment,
                    descendants.MARK: self._mark,
                },
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._orphan_cleanup = orphan_cleanup
        if orphan_cleanup is not None:
            orphan_cleanup.add_group(self.pid)
        self._orders = cast(IO[bytes], self._process.stdin)
        self._output = cast(IO[bytes], self._process.stdout)
        self.messages_fd, self.output_fd = read, self._output.fileno()
        for fd in (self.messages_fd, self.output_fd, self._orders.fileno()):
            os.set_blocking(fd, False)
        self._sending, self._unsent = threading.Lock(), bytearray()
        self._partial, self._tail = bytearray(), b""
        self._fault: str | None = None  # what it sent instead of a message
        self._is_killed = self._has_started = False
        self.warm_base: str | None = None
        self.idle_since: float | None = None

    @property
    def pid(self) -> int:
        """Process id, and id of the process group."""
        return self._process.pid

    @property
    def has_started(self) -> bool:
        """Whether the process was ready for orders at some time."""
        return self._has_started

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, **message: Any) -> None:
        """Send one order. A child that has ended ignores it, and its messages have ended.

        A large order does not fit into the pipe. While the child does not read, as when it hangs at its start, the rest
        waits for the next `read_messages`.
        """
        with self._sending:
            self._unsent += json.dumps(message).encode() + b"\n"
        self._send_rest()

    def _send_rest(self) -> None:
        with self._sending:
            waiting = select.poll()
            waiting.register(self._orders, select.POLLOUT)
            while self._unsent and waiting.poll(_ORDER_MILLISECONDS):
                try:
                    del self._unsent[: os.write(self._orders.fileno(), self._unsent)]
                except BlockingIOError:  # less room than the kernel writes at once
                    return
                except BrokenPipeError:
                    self._unsent.clear()

    def read_messages(self) -> Iterator[JsonObject | None]:
        """Yield the messages that have arrived, and None at the end of all messages.

        A child that sends something else is killed. `describe_end` then says what it sent.
        """
        if self._unsent:
            self._send_rest()
        for _ in range(_MOST_READS):  # a child that never stops writing must not keep its supervisor here
            try:
                data = os.read(self.messages_fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                yield None
                return
            self._partial += data
            lines: list[bytes] = []
            if b"\n" in data:
                *lines, rest = bytes(self._partial).split(b"\n")
                self._partial = bytearray(rest)
            for line in lines:
                try:
                    message = _parse(line)
                except ValueError as error:
                    self.refuse(f"a message that cannot be read: {error}")
                    yield None
                    return
                if message["type"] == "ready":
                    self._has_started = True
                else:
                    yield message
            if len(self._partial) > _LONGEST_MESSAGE:
                self.refuse(f"a message of more than {_LONGEST_MESSAGE:,} bytes")
                yield None
                return
            if len(data) < _READ_BYTES:
                return

    def refuse(self, what: str) -> None:
        """Kill the child because of what it sent instead of a message."""
        log.error("read_messages", extra={"pid": self.pid, "error": f"the child sent {what}"})
        self._fault = what
        self._signal(signal.SIGKILL)

    def read_output(self) -> bool:
        """Read what the child printed. Return whether more can come."""
        for _ in range(_MOST_READS):
            try:
                data = os.read(self.output_fd, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
        return True

    def resident_bytes(self) -> int:
        """Return the resident memory of the process and its descendants."""
        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for member in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += member.memory_info().rss
        return total

    def suspend(self) -> None:
        """Suspend the process group, which keeps its memory."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process group."""
        self._signal(signal.SIGCONT)

    def end(self, grace: float) -> None:
        """End the process, and kill what is left of it and of its descendants after `grace` seconds."""
        with contextlib.suppress(OSError):
            self._orders.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """Kill the process and its descendants, and close the pipes. A second call does nothing.

        A process that waits in the kernel ends later, and nobody waits for it.
        """
        if self._is_killed:
            return  # the kernel may have given the process id to another process
        self._is_killed = True
        if self.is_alive:
            self._signal(signal.SIGSTOP)  # it starts no more processes, and keeps those that lose their parent
            descendants.kill(lambda: descendants.find(self.pid))
        self._signal(signal.SIGKILL)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("kill", extra={"pid": self.pid, "error": "it does not end, and waits for a device or a disk"})
        descendants.kill(lambda: descendants.find_marked(self._mark))
        if self._orphan_cleanup is not None and not self.is_alive:
            self._orphan_cleanup.remove_group(self.pid)
        self.read_output()
        for stream in (self._orders, self._output):
            with contextlib.suppress(OSError):
                stream.close()
        os.close(self.messages_fd)

    def last_output(self) -> str:
        """Return the end of what the process printed, in whole lines: a cut one may begin within a secret."""
        if not self._output.closed:
            self.read_output()
        _, end, rest = self._tail.partition(b"\n") if len(self._tail) == _TAIL_BYTES else (b"", b"", b"")
        return (rest if end else self._tail).decode(errors="replace")

    def describe_end(self) -> str:
        """Describe how the process ended: its exit status or signal."""
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed the pipe of its messages, and goes on"
        if self._fault is not None:
            return f"it sent {self._fault}, and was killed"
        if code >= 0:
            return f"exit status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{name}, {_MEANINGS[name]}" if name in _MEANINGS else name

    def _signal(self, number: int) -> None:
        # Descendants keep the group alive after the process itself has ended, so the group gets the signal anyway.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def write_environment(settings: Settings) -> dict[str, str]:
    """Return the variables by which a child has the settings of its supervisor."""
    return {
        "FINCH_HOME": str(settings.home),
        "FINCH_LOG_FORMAT": settings.log_format,
        "FINCH_LOG_LEVEL": settings.log_level,
        "FINCH_DISABLED_PLUGINS": settings.disabled_plugins,
    }


def _parse(line: bytes) -> JsonObject:
    """Return a message.

    Raises:
        ValueError: it is none.
    """
    try:
        message = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(message, dict) or message.get("type") not in _FIELDS:
        raise ValueError(f"it is {line[:100]!r}")
    fields = _FIELDS[message["type"]]
    if missing := [name for name in fields if name not in message]:
        raise ValueError(f"{message['type']!r} has no {', '.join(missing)}")
    if wrong := [name for name, kind in fields.items() if not isinstance(message[name], kind)]:
        raise ValueError(f"{message['type']!r} has a wrong {', '.join(wrong)}")
    return message
