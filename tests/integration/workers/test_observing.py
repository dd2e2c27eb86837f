"""What an operator sees of a worker in a process of its own: its log and its metrics."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.fleet import fleet, wait_until
from support.services import Databases

from finch_hub.specs.jobs import JobState
from finch_hub.workers.logs.reader import read_line


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_log_has_only_lines_of_fields_and_metrics_tell_what_ran(
    log_format: str, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "collector"
    with fleet(tmp_path, database_url) as workers, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = workers.start(
            "gpu-1", finch_log_format=log_format, finch_metrics_folder=str(folder), finch_metrics_port=str(port)
        )
        ended = workers.wait(workers.probe())
        failed = workers.wait(workers.probe("raise"))
        assert (ended.state, failed.state) == (JobState.SUCCEEDED, JobState.FAILED)
        wait_until(lambda: "serve_metrics" in worker.text, "the port in use to be logged")
        text = (folder / "finch-gpu-1.prom").read_text()
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert list(folder.iterdir()) == []
    samples = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert {"finch_database_up", "finch_slots", "finch_jobs"} <= samples
    lines = [read_line(line) for line in worker.text.splitlines()]
    assert None not in lines, worker.text
    foreign = [line for line in lines if line is not None and not str(line["logger"]).startswith("finch_hub")]
    assert {line["level"] for line in foreign} <= {"info"}, worker.text
    of_failed = [line for line in lines if line is not None and line.get("job_id") == failed.id]
    assert {line["worker"] for line in of_failed} == {"gpu-1"}
    assert {line["action"] for line in of_failed} >= {"claimed", "ended"}
    assert any("device" in line and str(line["fence"]) == "1" for line in of_failed)
    assert worker.text.startswith("{") == (log_format == "json")


def test_worker_ends_when_its_database_file_is_replaced(tmp_path: Path) -> None:
    with fleet(tmp_path, Databases(tmp_path).new()) as workers:
        worker = workers.start()
        file = Path(workers.database.url.database or "")
        copy = file.with_name("copy.db")
        shutil.copy(file, copy)
        copy.replace(file)
        assert worker.wait() not in (0, None)
        assert "was replaced or removed while it was open" in worker.text
