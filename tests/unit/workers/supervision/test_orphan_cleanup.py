from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.fleet import wait_until

from finch_hub.workers.supervision.orphan_cleanup import OrphanCleanup

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(SLEEP, start_new_session=True) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_close_kills_the_groups_that_were_added_and_not_removed(sleepers: list[subprocess.Popen[bytes]]) -> None:
    cleanup = OrphanCleanup()
    added, removed, unknown = sleepers
    cleanup.add_group(removed.pid)
    cleanup.add_group(added.pid)
    cleanup.remove_group(removed.pid)
    cleanup.close()
    wait_until(lambda: added.poll() is not None, "the added process to be killed")
    assert (removed.poll(), unknown.poll()) == (None, None)
    cleanup.add_group(unknown.pid)  # does nothing after the close
