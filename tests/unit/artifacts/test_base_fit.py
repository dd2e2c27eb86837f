"""Parts of an adapter held against a base. Real models are in tests/contract/test_foreign_adapters.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.safetensors_files import PREFIX, arrays

from finch_hub.artifacts.base_fit import find_copies, find_misfits, fit_config, rename_to_base
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.lora_modules import find_modules
from finch_hub.formats.peft_config import ranks_and_scales
from finch_hub.formats.safetensors_file import SafetensorsFile

Shapes = dict[str, tuple[int, ...]]
BASE = BaseLayout(
    name="tiny",
    linear={"model.layers.0.q": (4, 6), "model.layers.1.q": (4, 6), "lm_head": (9, 6)},
    transposed=frozenset({"model.layers.1.q"}),
    embeddings={"model.embed_tokens": (9, 6)},
    parameters={
        "model.layers.0.q.weight": (4, 6),
        "model.layers.0.q.bias": (4,),
        "model.layers.1.q.weight": (6, 4),
        "model.embed_tokens.weight": (9, 6),
        "model.layers.0.mlp.experts.gate_up_proj": (2, 6, 8),
        "lm_head.weight": (9, 6),
    },
)


def lora(path: str, outputs: int = 4, inputs: int = 6) -> Shapes:
    return {f"{PREFIX}{path}.lora_A.weight": (2, inputs), f"{PREFIX}{path}.lora_B.weight": (outputs, 2)}


def misfits(shapes: Shapes, others: Shapes | None = None) -> list[str]:
    modules = find_modules(shapes, {"r": 2}).modules
    return [str(problem) for problem in find_misfits(modules, others or {}, {}, BASE)]


@pytest.mark.parametrize(
    ("shapes", "others"),
    [
        (lora("model.layers.0.q"), {}),
        (lora("lm_head", 9), {}),
        (lora("model.layers.1.q"), {}),
        (
            {
                f"{PREFIX}model.embed_tokens.lora_embedding_A": (2, 9),
                f"{PREFIX}model.embed_tokens.lora_embedding_B": (6, 2),
            },
            {},
        ),
        (lora("model.layers.0.q"), {"lm_head.weight": (9, 6), "model.layers.0.q.bias": (4,)}),
    ],
)
def test_parts_of_the_base_fit(shapes: Shapes, others: Shapes) -> None:
    assert misfits(shapes, others) == []


@pytest.mark.parametrize(
    ("shapes", "others", "says"),
    [
        (lora("model.layers.2.q"), {}, "model.layers.2.q: is not in base tiny (similar: model.layers."),
        (lora("model.layers.0.q", 5), {}, "is [5, 6] in the adapter, [4, 6] in the base"),
        (lora("model.layers.0.mlp.experts.1.gate_proj"), {}, "keeps all experts in one tensor"),
        (lora("lm_head", 11), {}, "it has 2 new tokens (save the base with the resized embeddings"),
        (lora("model.layers.0.q"), {"model.embed_tokens.weight": (10, 6)}, "it has 1 new tokens"),
        (lora("model.layers.0.q"), {"score.weight": (2, 6)}, "score.weight: is not in base tiny"),
        (lora("model.layers.0.q"), {"model.layers.0.q.bias": (5,)}, "is [5] in the adapter, [4] in the base"),
        (
            lora("model.layers.1.q") | {f"{PREFIX}model.layers.1.q.lora_magnitude_vector": (4,)},
            {},
            "is DoRA of a weight",
        ),
        (lora("model.layers.0.q") | lora("model.layers.1.q"), {}, "a config has one flag for all"),
    ],
)
def test_part_that_does_not_fit_is_named(shapes: Shapes, others: Shapes, says: str) -> None:
    (problem,) = misfits(shapes, others)
    assert says in problem


def test_names_of_another_model_around_the_layers_become_those_of_the_base() -> None:
    names = {
        f"{PREFIX}layers.0.q.lora_A.weight": f"{PREFIX}model.layers.0.q.lora_A.weight",
        f"{PREFIX}language_model.lm_head.weight": f"{PREFIX}lm_head.weight",
        f"{PREFIX}layers.0.q.base_layer.bias": f"{PREFIX}model.layers.0.q.base_layer.bias",
        f"{PREFIX}embed_tokens.weight": f"{PREFIX}model.embed_tokens.weight",
        f"{PREFIX}visual.layers.0.q.lora_A.weight": f"{PREFIX}visual.layers.0.q.lora_A.weight",
    }
    assert rename_to_base(names, BASE) == names


def test_config_of_renamed_modules_keeps_their_ranks_and_alphas() -> None:
    config: dict[str, Any] = {
        "target_modules": r"layers\.\d+\.q",
        "exclude_modules": None,
        "r": 2,
        "lora_alpha": 4,
        "use_rslora": False,
        "rank_pattern": {r"^layers\.1\.q": 3},
        "alpha_pattern": {r"^layers\.0\.q": 6},
    }
    paths = {f"layers.{n}.q": f"model.layers.{n}.q" for n in range(2)}
    fit_config(config, {"layers.0.q": (2, 3.0), "layers.1.q": (3, 4 / 3)}, paths)
    assert config["target_modules"] == ["model.layers.0.q", "model.layers.1.q"]
    assert config["rank_pattern"] == {"model.layers.1.q": 3}
    assert config["alpha_pattern"] == {"model.layers.0.q": 6}


def test_renamed_module_whose_path_ends_another_one_keeps_its_alpha() -> None:
    config: dict[str, Any] = {"target_modules": ["q"], "r": 2, "lora_alpha": 2, "rank_pattern": {}, "alpha_pattern": {}}
    config["alpha_pattern"] = {"a": 6}
    fit_config(config, {"a": (2, 3.0), "b": (2, 1.0)}, {"a": "q", "b": "x.q"})
    assert ranks_and_scales(config, ["q", "x.q"]) == {"q": (2, 3.0), "x.q": (2, 1.0)}


def bf16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("saved", "is_copy"),
    [
        (lambda own: own, True),
        (bf16, True),
        (lambda own: own.astype(np.float16), True),
        (lambda own: own.astype(np.float64), True),
        (lambda own: np.nextafter(own, np.float32(9)), False),
        (lambda own: bf16(own * np.float32(1.02)), False),
        (lambda own: own[:-1], False),
        (lambda own: np.ones((9, 6), np.int8), False),
    ],
)
def test_copy_of_the_bases_weight_is_recognized_up_to_its_own_rounding(
    tmp_path: Path, saved: Any, is_copy: bool
) -> None:
    own = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(arrays({"embed_tokens.weight": own}))
    base = BaseLayout(
        name="tiny", linear={}, embeddings={}, parameters={"model.embed_tokens.weight": (9, 6)}, folder=tmp_path
    )
    (tmp_path / "adapter.bin").write_bytes(arrays({"copy": saved(own)}))
    with SafetensorsFile(tmp_path / "adapter.bin") as file:
        copies = find_copies(file, {"copy": "model.embed_tokens.weight"}, base)
    assert copies == ({"copy"} if is_copy else set())
