"""Composed updates in PEFT's form: PEFT applies them with the same result."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.adapters import VARIANTS, save_adapter
from support.updates import adapter, dense, peft_deltas, relative

from finch_hub.engine.adapters import adapter_files
from finch_hub.engine.composition import peft_output
from finch_hub.engine.composition.parents import ParentAdapter, read_parent

PLAIN = [name for name, config in VARIANTS.items() if not config.get("use_dora")]


@pytest.mark.parametrize("variant", PLAIN)
def test_peft_applies_the_written_update(variant: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(tiny_folder, tmp_path / "a", **VARIANTS[variant])
    parent = read_parent(folder, "a")
    adapter_files.write_adapter(
        peft_output.to_weights(parent.factors, peft_output.common_config([parent])), tmp_path / "b"
    )
    written = peft_deltas(tiny_folder, tmp_path / "b")
    assert set(written) == set(parent.factors)
    for module, update in parent.factors.items():
        assert relative(written[module], dense(update)) < 1e-6


def test_different_ranks_are_written_as_patterns() -> None:
    made = {**adapter("a", seed=0, rank=2).factors, "layers.0.v": adapter("b", seed=1, rank=5).factors["layers.0.v"]}
    config = peft_output.make_config(made, {})
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"layers.0.v": 5}
    assert config["target_modules"] == sorted(made)


def test_target_modules_are_kept_only_if_all_parents_agree() -> None:
    def with_targets(name: str, targets: list[str], modules: list[str] | None = None) -> ParentAdapter:
        made = adapter(name, seed=0, modules=modules)
        return ParentAdapter.of(name, made.factors, {"target_modules": targets, "base_model_name_or_path": "x"})

    first = with_targets("a", ["v", "q"])
    assert peft_output.common_config([first, with_targets("b", ["q", "v"])])["target_modules"] == ["q", "v"]
    assert "target_modules" not in peft_output.common_config(
        [first, with_targets("b", ["q"], ["layers.0.q", "layers.1.q"])]
    )
    assert peft_output.common_config([first])["base_model_name_or_path"] == "x"
