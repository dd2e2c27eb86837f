"""Size of the log. That it has no passwords is tested in tests/integration/workers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from finch_hub.workers.log_setup import open_log


@pytest.mark.parametrize("character", ["x", "ä", "鳥"])
def test_log_has_at_most_10_mb_and_the_newest_lines(tmp_path: Path, character: str) -> None:
    handler = open_log(tmp_path / "worker.log")
    try:
        for number in range(1200):
            handler.emit(logging.LogRecord("a", logging.INFO, "a.py", 1, f"{character * 10_000} {number}", (), None))
    finally:
        handler.close()
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert 5_000_000 < sum(file.stat().st_size for file in files) <= 10_000_000
    assert (tmp_path / "worker.log").read_bytes().rstrip().endswith(b" 1199")
