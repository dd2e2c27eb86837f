"""A training that is killed, as the operating system kills, ends with the bytes of one that was not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, signal, sys
from pathlib import Path
from support.training import lessons
from finch_hub.engine import bases
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

base = bases.load(folder, dtype="float32", device="cpu", cache=workdir.parent / "cache")
config = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear", dropout=0.1)
training = TrainingConfig(
    epochs=3, batch_size=3, gradient_accumulation=2, learning_rate=5e-3, threads=1, validation=0.2, evaluate_every=3,
    checkpoint_every=2,
)
trained = loop.train(base, config, training, lessons(24), workdir=workdir, should_stop=killed)
trained.adapter.save(out)
"""


def run(folder: Path, workdir: Path, out: Path, *, kill_at: int = 0) -> int:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(workdir), str(out), str(kill_at)]
    tests = str(Path(__file__).parents[3])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_a_killed_training_ends_with_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    whole, resumed, killed = tmp_path / "whole", tmp_path / "resumed", tmp_path / "work"
    assert run(tiny_folder, tmp_path / "other", whole) == 0
    assert run(tiny_folder, killed, resumed, kill_at=9) == -signal.SIGKILL
    assert not resumed.exists()
    damaged = shutil.copytree(killed, tmp_path / "damaged")
    _, newest = sorted(damaged.glob("step-*"))
    os.truncate(newest / "state.safetensors", 100)
    for workdir in (killed, damaged):
        assert run(tiny_folder, workdir, resumed) == 0
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (resumed / name).read_bytes() == (whole / name).read_bytes()
        shutil.rmtree(resumed)
