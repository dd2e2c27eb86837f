"""Size of the log. That it has no passwords is tested in tests/integration/workers."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from finch_hub.workers.log_setup import LogFile


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
from finch_hub.workers.log_setup import LogFile
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
