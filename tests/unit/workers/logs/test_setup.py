"""Log of a process: its format and level, what goes through it, and its size."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finch_hub import errors, settings
from finch_hub.workers.logs.reader import read_line
from finch_hub.workers.logs.setup import LogFile

SAYS = """
import logging, sys, threading, warnings
from finch_hub import settings
from finch_hub.workers.logs.setup import LogStream, set_up_logging
set_up_logging(settings.load(), LogStream())
logging.getLogger("finch_hub.x").debug("look", extra={"jobs": 2})
logging.getLogger("botocore").debug("signed request")
logging.getLogger("botocore").warning("two\\nlines")
warnings.warn("old\\nthing")
thread = threading.Thread(target=lambda: 1 / 0, name="follow-up")
thread.start()
thread.join()
raise KeyError("end")
"""


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
@pytest.mark.parametrize("level", ["debug", "WARNING", "error"])
def test_all_that_a_process_says_is_lines_of_fields(
    log_format: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))
    monkeypatch.setenv("FINCH_LOG_FORMAT", log_format)
    monkeypatch.setenv("FINCH_LOG_LEVEL", level)
    ran = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True)
    assert ran.returncode == 1
    lines = [read_line(line) or {"message": f"not read: {line}"} for line in ran.stderr.splitlines()]
    said = [line.get("action") or line["message"].splitlines()[0] for line in lines]
    expected = {"debug": ["look", "two"], "WARNING": ["two"], "error": []}[level]
    assert said[: len(expected)] == expected
    assert len(said) == len(expected) + (2 if level == "error" else 3)
    assert said[-2:] == ["crash", "crash"]
    assert (lines[-2]["thread_name"], lines[-2]["level"]) == ("follow-up", "critical")
    assert lines[-1]["exception"].endswith("KeyError: 'end'")
    assert ran.stderr.startswith("{") == (log_format == "json")


@pytest.mark.parametrize(("name", "value"), [("log_format", "xml"), ("log_level", "loud")])
def test_other_formats_and_levels_are_refused(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match=f"{name}: is '{value}', but must be "):
        settings.load(home=tmp_path, **{name: value})


@pytest.mark.parametrize("character", ["x", "ä", "鳥"])
def test_log_has_at_most_10_mb_and_the_newest_lines(tmp_path: Path, character: str) -> None:
    handler = LogFile(tmp_path / "worker.log")
    try:
        for number in range(1200):
            handler.emit(logging.LogRecord("a", logging.INFO, "a.py", 1, f"{character * 10_000} {number}", (), None))
    finally:
        handler.close()
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert 5_000_000 < sum(file.stat().st_size for file in files) <= 10_000_000
    assert (tmp_path / "worker.log").read_bytes().rstrip().endswith(b" 1199")


def test_what_the_process_prints_goes_to_the_newest_file_and_counts(tmp_path: Path) -> None:
    code = f"""
import logging, os
from pathlib import Path
from finch_hub.workers.logs.setup import LogFile
log = LogFile(Path({str(tmp_path / "worker.log")!r}))
log.take_output()
record = logging.LogRecord("a", logging.INFO, "a.py", 1, "a record", (), None)
for number in range(1200):
    os.write(1, b"x" * 9_999 + b"\\n")
    log.emit(record)
os.write(2, b"the end\\n")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "worker.log").read_bytes().endswith(b"the end\n")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10_100_000


def test_log_of_a_child_has_its_format_and_its_job(tmp_path: Path) -> None:
    """The child's log is a part of its output, which is kept with the events of a job that failed."""
    code = """
import io, logging, sys
from finch_hub.workers import child
from finch_hub.workers.runs.channel import Channel
def execute(order, channel):
    logging.getLogger("plugin").warning("odd\\ndata")
class Kind:
    name = "train"
    order = type("Order", (), {"of": staticmethod(lambda order, subject: order)})
child.kinds.kind_of = lambda name: Kind
Kind.execute = staticmethod(execute)
log_format, log_level = "json", "info"
child.log_to(logging.StreamHandler(), log_format, log_level, child.Redactor())
child.run({"kind": "train", "job_id": "j1", "workdir": ".", "order": {}}, Channel(io.BytesIO()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    first = json.loads(ran.stderr.splitlines()[0])
    assert (first["message"], first["job_id"]) == ("odd\ndata", "j1")


SAYS_MUCH = """
import logging, sys
from finch_hub import settings
from finch_hub.workers.logs.setup import LogStream, set_up_logging
set_up_logging(settings.load(), LogStream())
log = logging.getLogger("finch_hub.x")
for number in range(1000):
    log.info("look", extra={"number": number, "text": "x " * 5000})
print("said", flush=True)
sys.stdin.read()
log.info("last")
"""


@pytest.mark.slow
def test_reader_of_the_log_that_stops_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", SAYS_MUCH], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "said\n", "the process went on, although nobody read"
        assert process.stderr is not None
        text = b""
        while text.count(b"\n") < 60:  # so many lines are gone from the hundred that wait, and the last one has room
            text += os.read(process.stderr.fileno(), 2**20)
        text += process.communicate()[1].encode()
    said = [read_line(line) or {} for line in text.decode().splitlines()]
    whole = len(said) - 2
    assert [line["number"] for line in said[:-2]] == [str(number) for number in range(whole)]
    assert (said[-2]["action"], said[-2]["left_out"]) == ("log", str(1000 - whole))
    assert said[-1]["action"] == "last"


def test_signal_handler_can_log_while_the_same_thread_logs(tmp_path: Path) -> None:
    code = f"""
import logging, signal
from finch_hub import settings
from finch_hub.workers.logs.setup import LogStream, set_up_logging
set_up_logging(settings.load(home={str(tmp_path)!r}), LogStream())
log = logging.getLogger("finch_hub.x")
signal.signal(signal.SIGALRM, lambda *_: (log.info("signal"), logging.getLogger().handlers[0].flush()))
for number in range(10_000):
    signal.setitimer(signal.ITIMER_REAL, (number % 10 + 1) * 1e-5)  # once, so that no handler interrupts another
    log.info("look")
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    said = [(read_line(line) or {})["action"] for line in ran.stderr.splitlines()]
    assert (ran.returncode, said.count("look"), "signal" in said) == (0, 10_000, True)


def test_end_of_a_process_waits_for_a_slow_reader_of_its_log(tmp_path: Path) -> None:
    code = f"""
import logging
from finch_hub import settings
from finch_hub.workers.logs import setup
setup._READER_SECONDS = 4.0
setup.set_up_logging(settings.load(home={str(tmp_path)!r}), setup.LogStream())
for number in range(50):
    logging.getLogger("finch_hub.x").info("look", extra={{"text": "x" * 15_000}})
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        text = b""
        while part := os.read(process.stderr.fileno(), 70_000):
            text += part
            time.sleep(0.5)
    assert len(text.splitlines()) == 50


@pytest.mark.slow
def test_log_that_nobody_reads_any_more_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", SAYS_MUCH], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        assert process.communicate("")[0] == "said\n"
    assert process.returncode == 0


def test_terminal_that_is_paused_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))
    terminal, ours = pty.openpty()
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen([sys.executable, "-c", SAYS_MUCH], stdin=pipe, stdout=pipe, stderr=ours) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"said\n"
            process.communicate(b"")
        assert process.returncode == 0
    finally:
        os.close(ours)
        os.close(terminal)


def test_log_without_standard_error_goes_into_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that starts without it gives its number to the file that it opens next, such as a database."""
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))
    code = f"""
file = open({str(tmp_path / "database")!r}, "wb")
assert file.fileno() == 2
{SAYS_MUCH}"""
    ran = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert (ran.returncode, ran.stdout) == (0, b"said\n")
    assert (tmp_path / "database").read_bytes() == b""
