"""The demo on a tiny model: interrupted in each step, it continues, and repeats nothing that has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.fleet import wait_until

from examples.demo import domains
from examples.demo.steps import BASE
from finch_hub import Hub
from finch_hub.specs.jobs import FINAL, JobState
from finch_hub.workers.embedded import worker as home_worker

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "examples.demo", "--small"]
JOBS = {"train": 6, "evaluate": 1, "compose": 1, "merge": 1}


class DemoHome:
    """A home that has the demo's base, tiny and random, and its rows, so that nothing is downloaded."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.hub, self.printed_before = folder, Hub(), 0
        self.hub.bases.add(base, name=BASE)
        for domain in domains.SOURCES:
            rows = [(f"What does {domain} {n} eat?", f"It eats {n} seeds of {domain}.") for n in range(200)]
            domains.write(rows, folder / "demo" / "rows" / f"{domain}.jsonl")
        (folder / "demo" / "wheels").mkdir()

    def start(self) -> subprocess.Popen[str]:
        """Start the demo, with its output in a file."""
        self.log.touch()
        self.printed_before = len(self.log.read_text())
        with self.log.open("a") as log:
            return subprocess.Popen(
                COMMAND, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )

    def wait_for(self, text: str, process: subprocess.Popen[str]) -> None:
        """Wait until the running demo has printed a text."""
        wait_until(lambda: text in self.printed() or process.poll() is not None, text, report=self.printed)
        assert text in self.printed()

    def finish(self) -> str:
        """Run the demo to its end, and return what it printed."""
        status = self.start().wait()
        printed = self.printed()
        # A random model learns next to nothing, so checks of its gains may fail.
        assert status in (0, 1), printed
        assert "Traceback" not in printed
        assert "finch-hub generate" in printed, printed
        return printed

    def printed(self) -> str:
        """Return what the newest run has printed."""
        return self.log.read_text()[self.printed_before :]

    def succeeded(self) -> Counter[str]:
        return Counter(job.kind for job in self.hub.jobs.find(states={JobState.SUCCEEDED}, limit=100))

    @property
    def log(self) -> Path:
        return self.folder / "demo.log"


@pytest.fixture
def demo_home(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoHome]:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "a home"))
    monkeypatch.setenv("FINCH_LEASE_SECONDS", "6")  # so that the job of a killed worker is not waited for long
    monkeypatch.setenv("FINCH_HEARTBEAT_SECONDS", "1")
    monkeypatch.setenv("FINCH_SWEEP_SECONDS", "1")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # processes that are killed leave files there
    home = DemoHome(tmp_path / "a home", tiny_folder)
    try:
        yield home
    finally:
        home.hub.workers.stop_own()
        home.hub.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_demo_that_is_killed_in_each_step_ends_with_each_job_done_once(demo_home: DemoHome) -> None:
    headings = ("Measure", "Teach", "Train the domain medical", "Train the domain style", "Compose", "Ask", "Merge")
    for heading in headings:
        process = demo_home.start()
        demo_home.wait_for(f"=== {heading}", process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    demo_home.finish()
    assert demo_home.succeeded() == JOBS
    assert not demo_home.hub.jobs.find(states=set(JobState) - FINAL)
    first = json.loads((demo_home.folder / "demo" / "summary.json").read_text(encoding="utf-8"))

    printed = demo_home.finish()
    assert "$ " not in printed  # no command was needed
    assert demo_home.succeeded() == JOBS
    assert json.loads((demo_home.folder / "demo" / "summary.json").read_text(encoding="utf-8")) == first


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_ctrl_c_no_worker_is_left_and_the_next_run_ends(demo_home: DemoHome) -> None:
    process = demo_home.start()
    demo_home.wait_for("=== Teach", process)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130, demo_home.printed()
    assert "Interrupted" in demo_home.log.read_text()
    assert home_worker.read_record(demo_home.hub.settings) is None
    demo_home.finish()
    assert demo_home.succeeded() == JOBS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_demo_whose_worker_is_killed_ends_by_itself(demo_home: DemoHome) -> None:
    process = demo_home.start()
    demo_home.wait_for("=== Teach", process)
    record = home_worker.read_record(demo_home.hub.settings)
    assert record is not None
    psutil.Process(record["pid"]).kill()
    assert process.wait() in (0, 1), demo_home.log.read_text()
    assert demo_home.succeeded() == JOBS


@pytest.mark.slow
def test_a_second_demo_in_the_same_home_is_refused(demo_home: DemoHome) -> None:
    process = demo_home.start()
    demo_home.wait_for("=== ", process)
    second = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)
    os.killpg(process.pid, signal.SIGKILL)  # with the command that it runs, which would start a worker
    process.wait()
    assert second.returncode == 1
    assert "another demo is running" in second.stderr
