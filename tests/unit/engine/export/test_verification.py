from __future__ import annotations

from pathlib import Path

import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub.engine.export import merging, verification


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, float]]:
    folder = tmp_path_factory.mktemp("adapters")
    saved = [save_adapter(tiny_folder, folder / name, seed=i, **VARIANTS[name]) for i, name in enumerate(VARIANTS)]
    return [(path, 1.0 if path.name == "dora" else 0.5) for path in saved]


def test_right_merge_agrees_with_the_adapters(
    tiny_folder: Path, adapters: list[tuple[Path, float]], tmp_path: Path
) -> None:
    merging.merge(tiny_folder, adapters, tmp_path / "merged")
    found = verification.verify_merge(tiny_folder, adapters, tmp_path / "merged")
    assert found.max_logit_difference < 1e-3
    assert found.argmax_agreement == 1.0
    assert found.num_positions > 20


def test_wrong_merge_differs_from_the_adapters(
    tiny_folder: Path, adapters: list[tuple[Path, float]], tmp_path: Path
) -> None:
    merging.merge(
        tiny_folder,
        [(path, weight * 0.9 if path.name != "dora" else 1.0) for path, weight in adapters],
        tmp_path / "merged",
    )
    found = verification.verify_merge(tiny_folder, adapters, tmp_path / "merged")
    assert found.max_logit_difference > 0.05
