from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.adapters import VARIANTS, logits, save_adapter

from finch_hub import errors
from finch_hub.engine.export import merged
from finch_hub.engine.export.parameters import MergedParameters


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_folder, tmp_path_factory.mktemp("adapter") / "finches", **VARIANTS["plain"])


def test_merged_export_gives_the_logits_of_the_weighted_adapter(
    adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    merged.write(adapter, tiny_folder, tmp_path / "out", MergedParameters(weight=0.5))
    for ours, theirs in zip(logits(tmp_path / "out"), logits(tiny_folder, [adapter], [0.5]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    with pytest.raises(errors.Incompatible, match="base"):
        merged.write(adapter, None, tmp_path / "none", MergedParameters())
