from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.fleet import wait_until

from finch_hub.workers.supervision.orphan_cleanup import Guard

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    made = [subprocess.Popen(SLEEP, start_new_session=True) for _ in range(3)]
    yield made
    for each in made:
        each.kill()
        each.wait()


def test_a_guard_kills_what_it_was_told_to_watch_and_not_to_forget(sleepers: list[subprocess.Popen[bytes]]) -> None:
    guard = Guard()
    watched, forgotten, unknown = sleepers
    guard.watch(forgotten.pid)
    guard.watch(watched.pid)
    guard.forget(forgotten.pid)
    guard.close()
    wait_until(lambda: watched.poll() is not None, "the watched one to be killed")
    assert (forgotten.poll(), unknown.poll()) == (None, None)
    guard.watch(unknown.pid)  # harmless once it is closed
