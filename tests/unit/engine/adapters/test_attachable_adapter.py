"""Adapters that are attached to a base: PEFT's layers and format, and a base that detaching leaves as it was."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.adapters import VARIANTS, save_adapter
from support.families import named, save_family

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.adapters.initialization import make_initial_a
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.specs.lora import LoRAConfig

IDS = torch.arange(5, 45).reshape(2, 20)

CONFIGS: dict[str, Callable[[], LoRAConfig]] = {
    "plain": lambda: LoRAConfig(rank=8, alpha=16),
    "all-linear rsLoRA with patterns": lambda: LoRAConfig(
        rank=4,
        alpha=8,
        target_modules="all-linear",
        use_rslora=True,
        rank_pattern={"q_proj": 6, r"layers\.1\.mlp\..*": 5},
        alpha_pattern={r"layers\.1\..*up_proj": 5.0},
        exclude_modules=("v_proj",),
    ),
    "DoRA on one layer's MLP": lambda: LoRAConfig(use_dora=True, target_modules="mlp", layers_to_transform=(1,)),
    "a pattern and a layer": lambda: LoRAConfig(target_modules=r".*self_attn\.[qk]_proj", layers_to_transform=(0,)),
}


def disturb(adapter: AttachableAdapter, seed: int = 0) -> None:
    """Give B and the magnitudes values that change the logits, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))


def logits(base: Base) -> torch.Tensor:
    with torch.no_grad():
        return base.model(IDS).logits


@pytest.mark.parametrize("name", CONFIGS)
def test_peft_computes_the_same_logits_with_a_saved_adapter(tiny_bases: Base, tmp_path: Path, name: str) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    adapter = AttachableAdapter(CONFIGS[name](), tiny_bases)
    disturb(adapter)
    own = logits(tiny_bases)
    adapter.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_bases.folder, attn_implementation="eager")
    with warnings.catch_warnings():
        # PEFT reads a deprecated property of transformers. Any other warning fails the test.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        theirs = peft.PeftModel.from_pretrained(model, tmp_path)
    with torch.no_grad():
        # The last bit depends on the processor and on where the tensors lie in memory.
        torch.testing.assert_close(theirs(IDS).logits, own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_load_of_an_adapter_from_peft_gives_the_logits_of_peft(tiny_bases: Base, tmp_path: Path, variant: str) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    folder = save_adapter(tiny_bases.folder, tmp_path / "theirs", **VARIANTS[variant])
    adapter = AttachableAdapter.load(folder, tiny_bases)
    model = AutoModelForCausalLM.from_pretrained(tiny_bases.folder, attn_implementation="eager")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        theirs = peft.PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(tiny_bases), rtol=1e-5, atol=1e-5)
    adapter.save(tmp_path / "ours")
    before, after = (json.loads((tmp_path / name / "adapter_config.json").read_bytes()) for name in ("theirs", "ours"))
    assert after == before


@pytest.mark.parametrize("name", CONFIGS)
def test_disable_and_detach_restore_the_base(tiny_base: Base, name: str) -> None:
    model = tiny_base.model
    untouched, modules = logits(tiny_base), dict(model.named_modules())
    attributes = set(vars(model))
    adapter = AttachableAdapter(CONFIGS[name](), tiny_base)
    assert torch.equal(logits(tiny_base), untouched)  # B = 0
    disturb(adapter)
    adapted = logits(tiny_base)
    assert adapter.is_enabled
    assert not torch.allclose(adapted, untouched)
    adapter.disable()
    assert not adapter.is_enabled
    assert torch.equal(logits(tiny_base), untouched)
    adapter.enable()
    assert torch.equal(logits(tiny_base), adapted)
    adapter.detach()
    assert torch.equal(logits(tiny_base), untouched)
    assert dict(model.named_modules()) == modules
    assert set(vars(model)) == attributes
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["folder", "physics.safetensors"])
def test_save_and_load_give_the_same_adapter(tiny_base: Base, tmp_path: Path, name: str) -> None:
    adapter = AttachableAdapter(CONFIGS["all-linear rsLoRA with patterns"](), tiny_base)
    disturb(adapter)
    adapted = logits(tiny_base)
    adapter.save(tmp_path / name)
    adapter.detach()
    loaded = AttachableAdapter.load(tmp_path / name, tiny_base)
    assert loaded.is_enabled
    names = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert loaded.config == adapter.config.evolve(target_modules=names)
    torch.testing.assert_close(logits(tiny_base), adapted, rtol=1e-5, atol=1e-5)
    for place in ("first", "second"):
        (adapter if place == "first" else loaded).save(tmp_path / place)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_adapters_of_all_ranks_start_from_the_same_a(tiny_base: Base) -> None:
    small = AttachableAdapter(LoRAConfig(rank=4), tiny_base, name="small")
    large = AttachableAdapter(LoRAConfig(rank=16, target_modules="all-linear"), tiny_base, name="large", seed=7)
    path = "model.layers.1.self_attn.q_proj"
    name = f"base_model.model.{path}.lora_A.weight"
    assert torch.equal(small.parameters()[name], large.parameters()[name][:4])
    assert torch.equal(small.parameters()[name], make_initial_a(path, 4, 64))


def test_random_initial_a_follows_the_seed_and_no_global_state(tiny_base: Base) -> None:
    state = torch.random.get_rng_state()
    found = []
    for number, seed in enumerate((1, 1, 2)):
        adapter = AttachableAdapter(LoRAConfig(init="random"), tiny_base, name=f"number {number}", seed=seed)
        found.append(next(iter(adapter.parameters().values())))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_attach_to_a_bfloat16_base_keeps_the_adapter_in_float32(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(tiny_folder, dtype="bfloat16", device="cpu", cache=tmp_path)
    untouched = logits(base)
    adapter = AttachableAdapter(LoRAConfig(use_dora=True), base)
    assert torch.equal(logits(base), untouched)
    disturb(adapter)
    assert not torch.equal(logits(base), untouched)
    assert {parameter.dtype for parameter in adapter.parameters().values()} == {torch.float32}
    assert logits(base).dtype == torch.bfloat16
    adapter.disable()
    assert torch.equal(logits(base), untouched)


def test_enabled_adapters_add_up_and_detach_one_by_one(tiny_base: Base) -> None:
    untouched = logits(tiny_base)
    first = AttachableAdapter(LoRAConfig(), tiny_base, name="first")
    disturb(first, seed=1)
    alone = logits(tiny_base)
    second = AttachableAdapter(LoRAConfig(target_modules="all-linear"), tiny_base, name="second")
    assert first.is_enabled
    assert torch.equal(logits(tiny_base), alone)  # B of the second adapter is still 0
    disturb(second, seed=2)
    both = logits(tiny_base)
    first.disable()
    assert not torch.allclose(logits(tiny_base), both)
    first.enable()
    torch.testing.assert_close(logits(tiny_base), both)
    second.detach()
    assert torch.equal(logits(tiny_base), alone)
    first.detach()
    assert torch.equal(logits(tiny_base), untouched)


def test_detach_of_an_active_adapter_activates_no_disabled_adapter(tiny_base: Base) -> None:
    untouched = logits(tiny_base)
    first, second = (AttachableAdapter(LoRAConfig(), tiny_base, name=name) for name in ("first", "second"))
    disturb(first, seed=1)
    first.disable()
    second.detach()
    assert not first.is_enabled
    assert torch.equal(logits(tiny_base), untouched)


def test_attach_under_a_name_in_use_is_refused(tiny_base: Base) -> None:
    AttachableAdapter(LoRAConfig(), tiny_base)
    with pytest.raises(errors.InvalidSpec, match="already has an adapter 'default'"):
        AttachableAdapter(LoRAConfig(), tiny_base)


def test_trainable_share_divides_by_base_and_adapter(tiny_base: Base) -> None:
    before = tiny_base.num_parameters
    adapter = AttachableAdapter(LoRAConfig(rank=4), tiny_base)
    # Two layers; q_proj is 64 by 64, v_proj 32 by 64.
    assert adapter.trainable_parameters == 2 * 4 * (128 + 96)
    assert tiny_base.num_parameters == before
    assert adapter.trainable_share == adapter.trainable_parameters / (before + adapter.trainable_parameters)


def test_adapter_without_a_base_says_how_to_get_one(tiny_base: Base, tmp_path: Path) -> None:
    adapter = AttachableAdapter(LoRAConfig())
    assert not adapter.is_enabled
    for use in (adapter.enable, lambda: adapter.save(tmp_path)):
        with pytest.raises(errors.InvalidSpec, match=r"LoRAAdapter\(config, base=\.\.\.\)"):
            use()
    AttachableAdapter(LoRAConfig(), tiny_base).save(tmp_path / "saved")
    loaded = AttachableAdapter.load(tmp_path / "saved")
    assert loaded.trainable_parameters == 2 * 16 * (128 + 96)
    loaded.save(tmp_path / "again.safetensors")  # a loaded folder can be saved as a file
    with pytest.raises(errors.InvalidSpec, match="it has no base"):
        loaded.enable()


def test_load_onto_another_base_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    from support.models import ARCHITECTURES, save_model

    other = save_model(ARCHITECTURES[1], tmp_path / "other", layers=3)
    folder = save_adapter(other, tmp_path / "adapter", r=4, target_modules=["k_proj"])
    modules = dict(tiny_base.model.named_modules())
    with pytest.raises(errors.Incompatible) as caught:
        AttachableAdapter.load(folder, tiny_base)
    assert len(caught.value.problems) == 3
    assert "layers.2.self_attn.k_proj: is not in base" in str(caught.value)
    assert "layers.0.self_attn.k_proj: is [64, 64] in the adapter, [32, 64] in the base" in str(caught.value)
    assert dict(tiny_base.model.named_modules()) == modules


def test_load_of_dora_of_weights_that_are_in_out_is_refused(tmp_path: Path) -> None:
    """The gate and every loader hold an adapter against its base alike."""
    base = load_base(save_family(named("gpt2"), tmp_path / "base"), device="cpu")
    options: dict[str, Any] = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    AttachableAdapter.load(save_adapter(base.folder, tmp_path / "plain", **options), base).detach()
    dora = save_adapter(base.folder, tmp_path / "dora", use_dora=True, **options)
    with pytest.raises(errors.Incompatible, match=r"is DoRA of a weight that is \[in, out\]"):
        AttachableAdapter.load(dora, base)


def test_load_of_more_than_linear_modules_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    folder = save_adapter(tiny_base.folder, tmp_path, r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(errors.Incompatible, match=r"lm_head.*is not a LoRA matrix"):
        AttachableAdapter.load(folder, tiny_base)


def test_load_weights_of_another_shape_is_refused(tiny_base: Base) -> None:
    wide = AttachableAdapter(LoRAConfig(rank=8), tiny_base, name="wide")
    narrow = AttachableAdapter(LoRAConfig(rank=4), tiny_base, name="narrow")
    with pytest.raises(errors.Incompatible, match=r"has shape \[8, 64\], not \[4, 64\]"):
        narrow.load_weights(wide.weights())


def test_attach_to_unknown_modules_is_refused_before_anything_changes(tiny_base: Base) -> None:
    modules = dict(tiny_base.model.named_modules())
    with pytest.raises(errors.InvalidSpec, match="did you mean q_proj"):
        AttachableAdapter(LoRAConfig(target_modules=("q_prj",)), tiny_base)
    assert dict(tiny_base.model.named_modules()) == modules
