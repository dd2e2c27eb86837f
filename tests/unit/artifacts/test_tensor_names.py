from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.safetensors_files import CONFIG, PREFIX, arrays, factors

from finch_hub import errors
from finch_hub.artifacts.tensor_names import NamedTensors, drop_announcements, name_tensors
from finch_hub.formats.quantized import SCALE
from finch_hub.formats.safetensors_file import SafetensorsFile

FIELDS: dict[str, Any] = {
    **CONFIG, "exclude_modules": None, "modules_to_save": None, "bias": "none", "rank_pattern": {}, "alpha_pattern": {},
}  # fmt: skip


def name(tmp_path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any], **options: Any) -> NamedTensors:
    (tmp_path / "file").write_bytes(arrays(tensors))
    with SafetensorsFile(tmp_path / "file") as file:
        return name_tensors(file, config, **{"is_pinned": False, "base": None, **options})


def test_usual_names_stay_and_nothing_is_said(tmp_path: Path) -> None:
    config = dict(FIELDS)
    named = name(tmp_path, factors(), config)
    assert named == NamedTensors(names={key: key for key in factors()}, notes=(), problems=())
    assert config == FIELDS


def test_pinned_config_names_the_modules_of_the_file(tmp_path: Path) -> None:
    config = {**FIELDS, "target_modules": None, "exclude_modules": ["k"]}
    name(tmp_path, factors("layers.1.q") | factors("layers.0.v"), config, is_pinned=True)
    assert (config["target_modules"], config["exclude_modules"]) == (["layers.0.v", "layers.1.q"], None)


@pytest.mark.parametrize("difference", [0.0, 1.0])
def test_second_tensor_of_one_name_is_left_out_only_if_it_is_equal(tmp_path: Path, difference: float) -> None:
    head = np.ones((3, 3), np.float32)
    twice = {f"{PREFIX}head.weight": head, f"{PREFIX}head.modules_to_save.weight": head + np.float32(difference)}
    named = name(tmp_path, factors() | twice, {**FIELDS, "modules_to_save": ["head"]})
    if difference:
        (problem,) = named.problems
        assert "with other values" in problem.what
    else:
        assert named.problems == ()
        assert list(named.names.values()).count(f"{PREFIX}head.weight") == 1


def test_module_of_the_base_beside_a_saved_one_is_left_out(tmp_path: Path) -> None:
    own = {f"{PREFIX}head.original_module.weight": np.ones((3, 3), np.float32)}
    assert name(tmp_path, factors() | own, dict(FIELDS)).names.keys() == factors().keys()


@pytest.mark.parametrize(
    ("kept", "left_out"),
    [((), "head.original_module.weight"), (("head.modules_to_save.weight",), "head.weight")],
    ids=["unused", "second of one name"],
)
def test_scale_of_a_tensor_that_is_left_out_is_left_out(kept: tuple[str, ...], left_out: str, tmp_path: Path) -> None:
    wholes = {f"{PREFIX}{name}": np.ones((3, 3), np.float32) for name in (*kept, left_out)}
    scale = {f"{PREFIX}{left_out}{SCALE}": np.ones(3, np.float32)}
    named = name(tmp_path, factors() | wholes | scale, {**FIELDS, "modules_to_save": ["head"]})
    assert f"{PREFIX}{left_out}{SCALE}" not in named.names
    assert len(named.names) == len(factors()) + len(kept)


def test_too_many_patterns_are_refused_before_they_are_matched(tmp_path: Path) -> None:
    patterns = {f"q{n}": 1 for n in range(5_000_001)}
    with pytest.raises(errors.RefusedArtifact, match="too many patterns"):
        name(tmp_path, factors(), {**FIELDS, "rank_pattern": patterns})


def test_modules_that_are_stored_whole_are_too_many_for_the_tensors_beside_the_factors(tmp_path: Path) -> None:
    wholes = {f"{PREFIX}w{n}.weight": np.ones(1, np.float32) for n in range(2_300)}
    with pytest.raises(errors.RefusedArtifact, match="modules_to_save: has too many patterns"):
        name(tmp_path, factors() | wholes, {**FIELDS, "modules_to_save": [f"y{n}" for n in range(2_300)]})


@pytest.mark.parametrize("pattern", [r".*q", r"layers\.\d+\.q"])
def test_pattern_that_would_become_one_for_each_of_many_modules_is_refused(tmp_path: Path, pattern: str) -> None:
    of_modules = {key: value for n in range(2_300) for key, value in factors(f"layers.{n}.q").items()}
    with pytest.raises(errors.RefusedArtifact, match="rank_pattern: has too many patterns"):
        name(tmp_path, of_modules, {**FIELDS, "r": FIELDS["r"] + 1, "rank_pattern": {pattern: FIELDS["r"]}})


def test_what_a_config_announces_in_vain_is_left_out_and_said() -> None:
    config = {**FIELDS, "modules_to_save": ["head", "score"], "bias": "all"}
    assert len(drop_announcements(config, [f"{PREFIX}model.head.weight"])) == 2
    assert (config["modules_to_save"], config["bias"]) == (["head"], "none")
    kept = {**FIELDS, "modules_to_save": None, "bias": "all"}
    assert drop_announcements(kept, [f"{PREFIX}q.base_layer.bias"]) == []
    assert kept["bias"] == "all"
