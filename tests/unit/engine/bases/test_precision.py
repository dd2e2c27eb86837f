"""The dtype that a device computes fastest in."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from finch_hub.engine.bases import precision


def test_auto_dtype_is_measured_once(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    measured = precision.pick_dtype("auto", cpu, cache=tmp_path)
    assert measured in (torch.float32, torch.bfloat16)
    file = tmp_path / "precision.json"
    known = json.loads(file.read_bytes())
    assert list(known.values()) == [measured == torch.bfloat16]
    # From now on the stored result decides.
    file.write_text(json.dumps({key: not value for key, value in known.items()}))
    assert precision.pick_dtype("auto", cpu, cache=tmp_path) != measured
    file.write_text("damaged")
    assert precision.pick_dtype("auto", cpu, cache=tmp_path) in (torch.float32, torch.bfloat16)
