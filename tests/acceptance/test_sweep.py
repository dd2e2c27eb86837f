"""A sweep from its submission to its table, with the worker that starts on demand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finch_hub import Hub
from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.specs.reports import TrainingReport

PAIRS = [(f"What does finch {n} eat at noon?", f"It eats {('seeds', 'buds', 'grain')[n % 3]}.") for n in range(40)]


@pytest.mark.slow
def test_sweep_is_trained_side_by_side_and_ranked(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Hub() as hub:
        handle = hub.sweep(
            PAIRS,
            adapter="birds",
            base=tiny_folder,
            validation=0.25,
            learning_rate=[1e-5, 1e-2],
            rank=4,
            alpha=8.0,
            epochs=4,
            batch_size=4,
            threads=1,
        )
        report = handle.wait(timeout=300)
        assert report.is_finished
        assert [point.settings for point in report.points] == [{"learning_rate": 1e-2}, {"learning_rate": 1e-5}]
        best, other = report.points
        assert (report.best, report.examples) == (best.number, 10)
        assert best.loss is not None
        assert other.loss is not None
        assert other.low is not None
        assert best.loss < other.loss
        assert other.low > 0, "forty rows tell a useless learning rate from a good one"
        assert handle.best().reference == best.adapter
        assert {version.reference for version in hub.adapters.versions("birds").versions} == {"birds/1", "birds/2"}
        reports = [job.report() for job in handle.jobs()]
        trained = [made for made in reports if isinstance(made, TrainingReport)]
        assert [made.environment.get("members") for made in trained] == [2, 2]
        hub.workers.stop_own()
    tables.console.cache_clear()
    capsys.readouterr()
    assert main.main(["jobs", "sweep", handle.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report.model_dump(mode="json")
    assert main.main(["jobs", "sweep", handle.id]) == 0
    shown = capsys.readouterr().out
    assert f"{best.adapter} is better than all others on 10 held-out examples." in shown
    assert "The best learning_rate is the largest that was tried: try larger ones." in shown
