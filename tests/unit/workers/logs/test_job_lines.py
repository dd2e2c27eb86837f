"""Lines of a worker's log that are about one job."""

from __future__ import annotations

from pathlib import Path

from finch_hub.workers.logs.job_lines import read_job_lines


def test_lines_of_a_job_are_found_in_both_formats_and_in_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "worker.log.1").write_text("level=info action=claimed job_id=abc fence=1\nlevel=info job_id=abcd\n")
    (tmp_path / "worker.log").write_text('{"action": "ended", "job_id": "abc"}\n{"job_id":"abc"}\naction=x about=abc\n')
    assert list(read_job_lines(tmp_path, "abc")) == [
        "level=info action=claimed job_id=abc fence=1",
        '{"action": "ended", "job_id": "abc"}',
        '{"job_id":"abc"}',
    ]


def test_home_without_a_log_has_no_lines(tmp_path: Path) -> None:
    assert list(read_job_lines(tmp_path / "logs", "abc")) == []
