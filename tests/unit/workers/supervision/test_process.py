"""Messages, output and end of a real child."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest
from support import finch_probe
from support.fleet import wait_until
from support.logs import list_said

from finch_hub.specs.jobs import ExportSpec
from finch_hub.specs.value import JsonObject
from finch_hub.workers.runs.export import ExportOrder
from finch_hub.workers.supervision.process import Child


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    started = Child({"PYTHONPATH": str(finch_probe.install(tmp_path / "plugins"))})
    yield started
    started.kill()


def send_order(child: Child, tmp_path: Path, action: str) -> None:
    spec = ExportSpec(
        adapter="birds", format="probe", out=str(tmp_path / "out"), parameters={"action": action, "seconds": 30}
    )
    order = ExportOrder(spec=spec, adapter=tmp_path / "adapter", base=None).model_dump(mode="json")
    child.send(type="run", kind="export", job_id="job", workdir=str(tmp_path), order=order)


def last_message(child: Child) -> dict[str, object] | None:
    """Return the message that ends an order, None if the child ended without one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for message in child.read_messages():
            if message is None or message["type"] != "event":
                return message
        time.sleep(0.01)
    raise AssertionError("no message came")


def test_child_serves_one_order_after_another(child: Child, tmp_path: Path) -> None:
    for _ in range(2):
        send_order(child, tmp_path, "nothing")
        message = last_message(child)
        assert message is not None
        assert message["type"] == "done"
        assert message["outcome"]["report"]["pid"] == child.pid  # type: ignore[index]


def test_failed_order_is_described_and_ends_the_child(child: Child, tmp_path: Path) -> None:
    send_order(child, tmp_path, "exit")
    message = last_message(child)
    assert message is not None
    assert message["type"] == "failed"
    assert message["reason"] == "export format probe of plugin finch-probe 1.0 failed: SystemExit: 3"
    assert not message["retry"]
    assert "finch_probe.py" in str(message["traceback"])
    wait_until(lambda: not child.is_alive, "the child to end")


def test_large_order_for_a_child_that_hangs_at_its_start_keeps_nobody_waiting(child: Child, tmp_path: Path) -> None:
    child.suspend()
    child.send(type="call", listener="x" * 1_000_000, job={})
    child.send(type="stop", why="cancel")
    assert list(child.read_messages()) == []
    child.resume()
    message = last_message(child)
    assert message is not None
    assert message["type"] == "failed"
    send_order(child, tmp_path, "nothing")
    assert last_message(child) is not None, "the orders are whole"


def test_child_that_closes_its_pipes_and_goes_on_is_described(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finch_hub.workers.supervision.process._END_SECONDS", 0.1)
    send_order(child, tmp_path, "close")
    assert last_message(child) is None
    assert child.is_alive
    assert child.describe_end() == "it closed the pipe of its messages, and goes on"


def test_stop_before_the_order_begins_stops_it(child: Child, tmp_path: Path) -> None:
    send_order(child, tmp_path, "sleep")
    child.send(type="stop", why="cancel")
    message = last_message(child)
    assert message == {"type": "stopped", "why": "cancel", "spent": False}


def test_stop_of_one_order_does_not_stop_the_next(child: Child, tmp_path: Path) -> None:
    child.send(type="stop", why="cancel")
    send_order(child, tmp_path, "nothing")
    message = last_message(child)
    assert message is not None
    assert message["type"] == "done"


def test_last_output_that_was_cut_begins_with_a_whole_line(child: Child) -> None:
    child._tail = b"horse-battery@host/x\nsecond".rjust(2**14, b"x")
    assert child.last_output() == "second"
    child._tail = b"first\nsecond"
    assert child.last_output() == "first\nsecond"


def test_last_output_of_a_child_that_died_is_kept(child: Child, tmp_path: Path) -> None:
    send_order(child, tmp_path, "print")
    assert last_message(child) is None
    assert child.describe_end() == "exit status 4"
    assert "the last words of the probe" in child.last_output()


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (signal.SIGABRT, "SIGABRT"),
        (signal.SIGKILL, "SIGKILL, which the kernel sends when memory runs out"),
        (signal.SIGPROF, "SIGPROF, since a chat template, a tokenizer or a plugin worked on one row without end"),
        (signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_end_by_a_signal_is_described(child: Child, number: int, end: str) -> None:
    os.kill(child.pid, number)
    assert child.describe_end() == end


def test_kill_of_a_dead_child_kills_its_descendants(child: Child, tmp_path: Path) -> None:
    send_order(child, tmp_path, "orphan")
    wait_until(lambda: not child.is_alive, "the child to end")
    members = [process for process in psutil.process_iter() if _group_of(process.pid) == child.pid]
    assert members, "the descendant is alive"
    child.kill()
    wait_until(lambda: not any(_runs(process) for process in members), "the descendant to be killed")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has adoption by a process")
def test_kill_of_a_child_kills_a_daemon_with_another_environment(child: Child, tmp_path: Path) -> None:
    """The tree of processes tells whose it is while the child lives."""
    send_order(child, tmp_path, "stranger")
    file = tmp_path / "out.daemon"
    wait_until(lambda: file.exists() and file.read_text() != "", "the daemon to start")
    daemon = psutil.Process(int(file.read_text()))
    try:
        wait_until(lambda: not daemon.environ(), "it to have another environment")
        child.kill()
        wait_until(lambda: not _runs(daemon), "it to be killed")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            daemon.kill()


def test_kill_does_not_wait_for_a_process_that_the_kernel_keeps(
    child: Child, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that waits for a file server or a graphics card. A signal reaches it later."""

    def wait(timeout: float | None = None) -> int:
        assert timeout is not None, "it may never end"
        raise subprocess.TimeoutExpired("child", timeout)

    with monkeypatch.context() as patch:
        patch.setattr(child._process, "wait", wait)
        child.kill()
    assert [said["action"] for said in list_said(caplog)] == ["kill"]
    child._process.wait(60)


def test_child_limits_the_spinning_of_threads_unless_the_user_set_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy, spins in ((None, "20000"), ("ACTIVE", None)):
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        if policy is None:
            monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        else:
            monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        child = Child({})
        try:
            process = psutil.Process(child.pid)
            wait_until(lambda process=process: bool(process.environ()), "its start")  # type: ignore[misc]
            assert process.environ().get("GOMP_SPINCOUNT") == spins
        finally:
            child.kill()


def test_child_ends_when_its_input_is_closed(child: Child) -> None:
    child.end(grace=20)
    assert not child.is_alive


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != "zombie"


def open_messages(child: Child) -> BinaryIO:
    """Open the pipe of a child's messages, when the child is ready, to write into it."""
    wait_until(lambda: not list(child.read_messages()) and child.has_started, "the child to be ready")
    number = psutil.Process(child.pid).cmdline()[-1]
    return Path(f"/proc/{child.pid}/fd/{number}").open("wb", buffering=0)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"hello\n", "cannot be read"),
        (b"[1]\n", "it is b'[1]'"),
        (b'{"type": "invented"}\n', "it is b'{"),
        (b'{"type": "done"}\n', "'done' has no outcome, warm_base"),
        (b'{"type": "done", "outcome": [], "warm_base": 1}\n', "'done' has a wrong outcome, warm_base"),
        (b"[" * 60_000 + b"\n", "nested too deep"),
        (b"x" * 3000, "more than 2,048 bytes"),
    ],
)
def test_child_that_sends_no_message_is_killed_and_described(
    child: Child, sent: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plugin that writes to a file descriptor that is not its own."""
    if not sent.endswith(b"\n"):
        monkeypatch.setattr("finch_hub.workers.supervision.process._LONGEST_MESSAGE", 2048)
    with open_messages(child) as messages:
        messages.write(sent)
    assert last_message(child) is None
    assert told in child.describe_end()
    assert not child.is_alive


def test_message_that_comes_in_many_parts_is_read(child: Child) -> None:
    text = json.dumps({"type": "event", "event": {"type": "message", "message": "x" * 300_000}})
    found: list[JsonObject | None] = []
    with open_messages(child) as messages:
        for start in range(0, len(text), 50_000):
            messages.write(text[start : start + 50_000].encode())
            found += child.read_messages()
        assert found == []
        messages.write(b"\n")
    while not found:
        found += child.read_messages()
    assert found == [json.loads(text)]


def test_child_that_prints_without_end_does_not_keep_its_supervisor(child: Child, tmp_path: Path) -> None:
    with Path(f"/proc/{child.pid}/fd/1").open("wb") as output, ThreadPoolExecutor(1) as pool:
        is_over = threading.Event()

        def print_on() -> None:
            with contextlib.suppress(BrokenPipeError):
                while not is_over.is_set():
                    output.write(b"x" * 65_536)

        printing = pool.submit(print_on)
        for _ in range(20):
            assert child.read_output()
        is_over.set()
        child.read_output()
        child.kill()
        printing.result(30)
