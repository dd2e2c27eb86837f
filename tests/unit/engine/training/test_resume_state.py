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

from finch_hub.specs.reports import TrainingReport

SCRIPT = """
import os, signal, sys
from pathlib import Path
from support.training import lessons
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.training import loop
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

folder, workdir, out, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
asked = 0

def killed():
    global asked
    asked += 1
    if asked == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

base = load_base(folder, dtype="float32", device="cpu", cache=workdir.parent / "cache")
config = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear", dropout=0.1)
training = TrainingConfig(
    epochs=30, batch_size=2, gradient_accumulation=2, learning_rate=5e-2, schedule="constant", threads=1, patience=2,
    evaluate_every=1, checkpoint_every=2,
)
trained = loop.train(base, config, training, lessons(8), lessons(40)[30:], workdir=workdir, should_stop=killed)
trained.adapter.save(out)
report = trained.report
untimed = report.evolve(seconds=0.0, data=report.data.evolve(seconds=None))
(out / "report.json").write_text(untimed.model_dump_json())
"""


def run(folder: Path, workdir: Path, out: Path, *, kill_at: int = 0) -> int:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(workdir), str(out), str(kill_at)]
    tests = str(Path(__file__).parents[3])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_a_killed_training_resumes_to_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    whole, resumed, killed = tmp_path / "whole", tmp_path / "resumed", tmp_path / "work"
    assert run(tiny_folder, tmp_path / "other", whole) == 0
    assert run(tiny_folder, killed, resumed, kill_at=12) == -signal.SIGKILL
    assert not resumed.exists()
    report = TrainingReport.of(json.loads((whole / "report.json").read_text()))
    assert report.stopped_early
    assert report.best_step is not None
    assert report.best_step > max(int(path.name.removeprefix("step-")) for path in killed.glob("step-*"))
    damaged = shutil.copytree(killed, tmp_path / "damaged")
    _, newest = sorted(damaged.glob("step-*"))
    os.truncate(newest / "state.safetensors", 100)
    for workdir in (killed, damaged):
        assert run(tiny_folder, workdir, resumed) == 0
        for name in ("adapter_model.safetensors", "adapter_config.json", "report.json"):
            assert (resumed / name).read_bytes() == (whole / name).read_bytes()
        shutil.rmtree(resumed)
