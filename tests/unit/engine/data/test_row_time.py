"""The limit of the time that code of third parties takes for one row."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from finch_hub import errors
from finch_hub.engine.data import row_time
from finch_hub.engine.data.row_time import limit_time


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_time, "SECONDS", 1)


def spin() -> None:
    while True:
        pass


def spin_and_catch() -> None:
    with contextlib.suppress(Exception):
        spin()


def wait() -> None:
    time.sleep(1e6)


def match_slowly() -> None:
    import re

    re.match(r"(a+)+$", "a" * 64 + "b")


@pytest.mark.parametrize("endless", [spin, spin_and_catch, wait, match_slowly])
def test_code_without_end_is_interrupted(endless: Callable[[], None]) -> None:
    with (
        pytest.raises(errors.TimeLimitReached, match=r"^line 7: the code did not end within 1 s \(leave it out\)$"),
        limit_time("the code", row="line 7", fix="leave it out"),
    ):
        endless()


def test_process_keeps_its_own_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_time, "SECONDS", 60)
    heard: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with limit_time("the code", row="line 7", fix=""):
            time.sleep(0.1)
            assert not heard
        while not heard:
            time.sleep(0.01)
        assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *outer)


def test_errors_of_the_code_pass() -> None:
    with pytest.raises(ValueError, match="mine"), limit_time("the code", row="line 7", fix=""):
        raise ValueError("mine")


def test_other_threads_have_no_limit() -> None:
    done: list[str] = []

    def work() -> None:
        with limit_time("the code", row="line 7", fix=""):
            done.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["worked"]


STUCK = {
    "code in C": "sum(itertools.repeat(0))",
    "code that catches everything": "while True:\n        try: time.sleep(60)\n        except: pass",
}
PROGRAM = """
import itertools, time
from finch_hub.engine.data import row_time

row_time.SECONDS = row_time._TICK = 0.1
row_time.end_stuck_process()

def convert():
    {code}

with row_time.limit_time("the code", row="line 7", fix=""):
    convert()
"""


@pytest.mark.parametrize("code", STUCK.values(), ids=STUCK)
def test_process_whose_code_cannot_be_interrupted_ends_and_says_where(code: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGPROF
    assert "in convert" in ran.stderr
