"""The supervisor's end of a child process: start it, talk with it, measure it, end it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, cast

import psutil

if TYPE_CHECKING:
    from finch_hub.workers.supervision.orphan_cleanup import Guard

log = logging.getLogger(__name__)

_TAIL_BYTES = 16_384
_READ_BYTES = 65_536
_LONGEST_MESSAGE = 64 * 2**20
# OpenMP's threads spin while they wait for each other, and where somebody else needs the cores too they spin in place
# of the one that is waited for. With two threads alone on two cores, training made 950 tokens/s spinning as long as
# libgomp does by itself, 640 sleeping at once and 1,000 spinning for some microseconds; beside a busy process 33, 490
# and 210.
_POLITE = {"GOMP_SPINCOUNT": "20000"}


class Child:
    """One process of :mod:`finch_hub.workers.child`, alone in its session, which it leaves to its children.

    Orders go to its standard input and messages come by a pipe of their own, both as lines of JSON; standard output
    and error are one stream of which the tail is kept. When this end of the input closes, also by our being killed,
    the child ends with all of its process group.

    Args:
        guard: is told of the process group for as long as it may have members.

    Attributes:
        warm_base: key of the base model that it has loaded, once a job has said so.
        idle_since: when its last job ended, by :func:`clock.elapsed`; None while it works.

    """

    def __init__(self, environment: Mapping[str, str], *, guard: Guard | None = None) -> None:
        read, write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finch_hub.workers.child", str(write)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                start_new_session=True,
                env={**({} if "OMP_WAIT_POLICY" in os.environ else _POLITE), **os.environ, **environment},
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._guard = guard
        if guard is not None:
            guard.watch(self.pid)
        self._orders = cast(IO[bytes], self._process.stdin)
        self._output = cast(IO[bytes], self._process.stdout)
        self.messages_fd, self.output_fd = read, self._output.fileno()  # to be watched for what arrives
        os.set_blocking(self.messages_fd, False)
        os.set_blocking(self.output_fd, False)
        self._partial, self._tail = b"", b""
        self._killed = False
        self.warm_base: str | None = None
        self.idle_since: float | None = None

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def tail(self) -> str:
        """The last of what it printed."""
        if not self._output.closed:
            self.read_output()
        return self._tail.decode(errors="replace")

    def send(self, **message: Any) -> None:
        """Send one order; a child that has ended takes none, which its messages will show."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(json.dumps(message).encode() + b"\n")
            self._orders.flush()

    def read_messages(self) -> Iterator[dict[str, Any] | None]:
        """Yield the messages that have arrived, and None at the end of all messages."""
        while True:
            try:
                data = os.read(self.messages_fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                yield None
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            if len(self._partial) > _LONGEST_MESSAGE:
                log.error("action=read_messages pid=%d error=a message is too long", self.pid)
                yield None
                return
            for line in lines:
                message = json.loads(line)
                yield message
            if len(data) < _READ_BYTES:
                return  # that was all

    def read_output(self) -> bool:
        """Take in what it printed; return whether more can come."""
        while True:
            try:
                data = os.read(self.output_fd, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def resident_bytes(self) -> int:
        """Return the resident memory of the child and all its descendants."""
        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for member in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += member.memory_info().rss
        return total

    def suspend(self) -> None:
        """Stop the whole process group from running, keeping its memory."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended process group run on."""
        self._signal(signal.SIGCONT)

    def end(self, grace: float) -> None:
        """Ask it to end, and kill what is left of the process group after so many seconds."""
        with contextlib.suppress(OSError):
            self._orders.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """Kill the whole process group at once, and forget the pipes; a second time does nothing."""
        if self._killed:
            return  # its process id may be somebody else's by now
        self._killed = True
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._guard is not None:
            self._guard.forget(self.pid)
        self.read_output()
        for stream in (self._orders, self._output):
            with contextlib.suppress(OSError):
                stream.close()
        os.close(self.messages_fd)

    def how_it_ended(self) -> str:
        """Say in words how the process ended."""
        code = self._process.wait()
        if code >= 0:
            return f"exit status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{name}, as the kernel does when memory runs out" if -code == signal.SIGKILL else name

    def _signal(self, number: int) -> None:
        # The group outlives its leader while a descendant runs, so a dead leader is no reason to spare it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
