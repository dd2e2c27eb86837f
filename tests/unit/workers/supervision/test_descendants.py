"""Descendants of a process, wherever they go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.fleet import wait_until

from finch_hub.workers.supervision import descendants

# A process that adopts its descendants and has three: a child, one in a session of its own, and one whose parent ended.
# The last has no variables of its environment left.
_FAMILY = """
import os, subprocess, sys, time
from finch_hub.workers.supervision import descendants

descendants.adopt()
sleep = ["/bin/sleep", "3600"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.run(["/bin/sh", "-c", 'env -i /bin/sleep 3600 &'], start_new_session=True)
print(flush=True)
time.sleep(3600)
"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has adoption by a process")


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose descendants are started."""
    environment = {**os.environ, descendants.MARK: "a mark"}
    process = subprocess.Popen([sys.executable, "-c", _FAMILY], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    descendants.kill(lambda: descendants.find(process.pid))
    process.kill()
    process.wait()
    process.stdout.close()


def names(processes: list[psutil.Process]) -> list[str]:
    return sorted(process.name() for process in processes)


@linux_only
def test_descendants_are_found_after_they_left_group_and_parent(family: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: names(descendants.find(family.pid)) == ["sleep"] * 3, "all to run")
    descendants.kill(lambda: descendants.find(family.pid))
    assert descendants.find(family.pid) == [], "the zombies do not count"
    assert family.poll() is None
    assert any(Path(f"/proc/{family.pid}/task").glob("*/children"))


@linux_only
def test_process_knows_whether_it_has_descendants_without_reading_all_processes() -> None:
    code = """
import subprocess, sys
from finch_hub.workers.supervision import descendants
descendants.adopt()
usual, descendants.find = descendants.find, None
assert not descendants.has_any()
descendants.find = usual
subprocess.run(["/bin/sh", "-c", "/bin/sleep 3600 &"], start_new_session=True)
assert descendants.has_any()
descendants.kill(lambda: descendants.find(__import__("os").getpid()))
assert not descendants.has_any(), "a zombie does not count"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_descendants_of_an_ended_process_are_found_by_their_mark(family: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: len(names(descendants.find_marked("a mark"))) == 3, "two of them to run beside the process")
    left = descendants.find(family.pid)
    family.kill()
    family.wait()
    assert names(descendants.find_marked("a mark")) == ["sleep", "sleep"]
    assert descendants.find_marked("a") == []
    descendants.kill(lambda: descendants.find_marked("a mark"))
    assert descendants.find_marked("a mark") == []
    for process in left:
        process.kill()


def test_kill_gives_up_a_process_that_does_not_end(family: subprocess.Popen[bytes]) -> None:
    calls = []

    class Stubborn:
        pid = family.pid

        def kill(self) -> None:
            calls.append("kill")

        def wait(self, timeout: float) -> None:
            raise psutil.TimeoutExpired(timeout)

    descendants.kill(lambda: [Stubborn()])
    assert calls
