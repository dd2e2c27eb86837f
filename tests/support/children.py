"""A child process without a process: pipes and lists, for tests of what supervises one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from finch_hub.workers.supervision.process import ChildProcess


class FakeChild(ChildProcess):
    """Child that says what a test tells it to, and remembers what it was told.

    Attributes:
        sent: the orders that it got.
        calls: names of the signals that it got, in order.
        resident: what it reports as its memory, in bytes.

    """

    def __init__(self) -> None:
        self.messages_fd, self._messages = os.pipe()
        self.output_fd, self._output = os.pipe()
        for fd in (self.messages_fd, self.output_fd):
            os.set_blocking(fd, False)
        self.warm_base: str | None = None
        self.idle_since: float | None = None
        self.sent: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.resident = 0
        self.is_ready = True
        self._is_alive = True

    @property
    def has_started(self) -> bool:
        return self.is_ready

    @property
    def is_alive(self) -> bool:
        return self._is_alive

    def say(self, **message: Any) -> None:
        """Let the child send a message."""
        os.write(self._messages, json.dumps(message).encode() + b"\n")

    def die(self) -> None:
        """Let the process end."""
        self._is_alive = False
        for fd in (self._messages, self._output):
            os.close(fd)

    def send(self, **message: Any) -> None:
        self.sent.append(message)

    def read_messages(self) -> Iterator[dict[str, Any] | None]:
        try:
            data = os.read(self.messages_fd, 65_536)
        except BlockingIOError:
            return
        if not data:
            yield None
        for line in data.splitlines():
            yield json.loads(line)

    def read_output(self) -> bool:
        try:
            return bool(os.read(self.output_fd, 65_536))
        except BlockingIOError:
            return True

    def resident_bytes(self) -> int:
        return self.resident

    def suspend(self) -> None:
        self.calls.append("suspend")

    def resume(self) -> None:
        self.calls.append("resume")

    def end(self, grace: float) -> None:
        self.calls.append("end")
        self._is_alive = False

    def refuse(self, what: str) -> None:
        self.calls.append(f"refuse {what}")

    def kill(self) -> None:
        self.calls.append("kill")
        self._is_alive = False

    def last_output(self) -> str:
        return "last words"

    def describe_end(self) -> str:
        return "exit status 3"
