"""A training that is killed and resumed ends with the same bytes as an uninterrupted one.

It accumulates gradients, uses dropout, evaluates, and stops early long after the kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finch_hub.specs.reports import TrainingReport

SCRIPT = """
import os, signal, sys
from pathlib import Path
from support.training import lessons
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.training import loop
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

folder, kill_at, *places = sys.argv[1:]  # a folder to work in and one for the result of each training
asked = 0

def killed():
    global asked
    asked += 1
    if asked == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)

cache = Path(places[0]).parent / "cache"
config = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear", dropout=0.1)
training = TrainingConfig(
    epochs=30, batch_size=2, gradient_accumulation=2, learning_rate=5e-2, schedule="constant", threads=1, patience=2,
    evaluate_every=1, checkpoint_every=2,
)
for workdir, out in zip(map(Path, places[::2]), map(Path, places[1::2])):
    should_stop = killed if str(out) == places[-1] else lambda: None
    base = load_base(Path(folder), dtype="float32", device="cpu", cache=cache)
    trained = loop.train(
        base, config, training, lessons(8), lessons(40)[30:], workdir=workdir, should_stop=should_stop
    )
    trained.adapter.save(out)
    report = trained.report
    untimed = report.evolve(seconds=0.0, data=report.data.evolve(seconds=None))
    (out / "report.json").write_text(untimed.model_dump_json())
"""


def run(folder: Path, *places: Path, kill_at: int = 0) -> int:
    """Train in a new process, once for each two places. It is killed during the last training, or not at all."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(kill_at), *map(str, places)]
    tests = str(Path(__file__).parents[3])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    whole, resumed, killed = tmp_path / "whole", tmp_path / "resumed", tmp_path / "work"
    assert run(tiny_folder, tmp_path / "other", whole, killed, resumed, kill_at=12) == -signal.SIGKILL
    assert not resumed.exists()
    report = TrainingReport.of(json.loads((whole / "report.json").read_text()))
    assert report.stopped_early
    assert report.best_step is not None
    assert report.best_step > max(int(path.name.removeprefix("step-")) for path in killed.glob("step-*"))
    damaged, repaired = shutil.copytree(killed, tmp_path / "damaged"), tmp_path / "repaired"
    _, newest = sorted(damaged.glob("step-*"))
    os.truncate(newest / "state.safetensors", 100)
    assert run(tiny_folder, killed, resumed, damaged, repaired) == 0
    for out in (resumed, repaired):
        for name in ("adapter_model.safetensors", "adapter_config.json", "report.json"):
            assert (out / name).read_bytes() == (whole / name).read_bytes()
