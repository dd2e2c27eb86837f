"""Routing of each row of a batch through its own adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.adapters import VARIANTS, save_adapter

from finch_hub import errors
from finch_hub.engine.adapters.adapter_files import read_adapter
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.inference.routing import AdapterRouter
from finch_hub.formats.peft_names import WEIGHTS

IDS = torch.arange(5, 65).reshape(3, 20)


def logits(base: Base, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return base.model(ids).logits


def routed(router: AdapterRouter, base: Base, names: list[str | None], ids: torch.Tensor) -> torch.Tensor:
    with router.using(router.plan(names)):
        return logits(base, ids)


@pytest.fixture(scope="module")
def folders(tiny_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(tiny_folders, root / name, seed=5, **VARIANTS[name]) for name in VARIANTS}


@pytest.fixture
def router(tiny_bases: Base, folders: dict[str, Path]) -> AdapterRouter:
    router = AdapterRouter(tiny_bases.model)
    for name, folder in folders.items():
        router.load(name, read_adapter(folder))
    return router


def test_one_adapter_computes_the_logits_of_peft(
    tiny_bases: Base, folders: dict[str, Path], router: AdapterRouter
) -> None:
    for name, folder in folders.items():
        own = routed(router, tiny_bases, [name], IDS)
        adapter = AttachableAdapter.load(folder, tiny_bases)
        peft_logits = logits(tiny_bases)
        adapter.detach()
        tolerance = 1e-4 if name == "dora" else 1e-5  # PEFT multiplies DoRA's factors in another order
        torch.testing.assert_close(own, peft_logits, rtol=tolerance, atol=tolerance)  # rounding is the processor's


@pytest.mark.parametrize("length", [20, 1])
def test_row_of_a_batch_has_the_logits_that_it_has_alone(tiny_bases: Base, router: AdapterRouter, length: int) -> None:
    # Long inputs are computed in runs, single tokens in groups. Both must agree with one row at a time.
    names = ["plain", None, "dora", "patterns", "rslora", "plain", None]
    ids = torch.arange(5, 5 + len(names) * length).reshape(len(names), length)
    together = routed(router, tiny_bases, names, ids)
    for row, name in enumerate(names):
        alone = routed(router, tiny_bases, [name], ids[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)
        others = [routed(router, tiny_bases, [other], ids[row : row + 1]) for other in {*names} - {name}]
        assert not any(torch.allclose(together[row], other[0], atol=1e-2) for other in others)


def test_rows_can_leave_and_come_in_any_order(tiny_bases: Base, router: AdapterRouter) -> None:
    names = ["patterns", "patterns", "plain", "plain", None, "rslora"]
    ids = torch.arange(5, 5 + len(names)).reshape(len(names), 1)
    alone = [routed(router, tiny_bases, [name], ids[row : row + 1])[0] for row, name in enumerate(names)]
    for rows in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3], [1, 2], [2, 4, 5], [4, 5], [5, 3, 0, 2], [0, 3]):
        together = routed(router, tiny_bases, [names[row] for row in rows], ids[rows])
        torch.testing.assert_close(together, torch.stack([alone[row] for row in rows]), rtol=1e-4, atol=1e-4)


def test_logits_outside_of_the_context_are_the_base_logits(tiny_bases: Base, router: AdapterRouter) -> None:
    inside = routed(router, tiny_bases, ["plain"], IDS)
    untouched = logits(tiny_bases)
    for name in list(router._adapters):
        router.unload(name)
    assert torch.equal(logits(tiny_bases), untouched)
    assert not torch.allclose(inside, untouched, atol=1e-2)
    assert not any(module._forward_hooks for module in tiny_bases.model.modules())


def test_inner_context_ends_with_the_outer_adapter(tiny_bases: Base, router: AdapterRouter) -> None:
    outer = routed(router, tiny_bases, ["plain"], IDS)
    with router.using(router.plan(["plain"])):
        inner = routed(router, tiny_bases, ["rslora"], IDS)
        assert torch.equal(logits(tiny_bases), outer)
    assert not torch.allclose(inner, outer, atol=1e-2)


def test_an_error_inside_ends_the_context(tiny_bases: Base, router: AdapterRouter) -> None:
    untouched = logits(tiny_bases)
    with pytest.raises(RuntimeError), router.using(router.plan(["plain"])):
        raise RuntimeError
    assert torch.equal(logits(tiny_bases), untouched)


def test_load_under_a_used_name_replaces_the_weights(
    tiny_bases: Base, folders: dict[str, Path], router: AdapterRouter
) -> None:
    names: list[str | None] = ["plain", "rslora", None]
    before = routed(router, tiny_bases, names, IDS)
    router.load("plain", read_adapter(folders["patterns"]))
    after = routed(router, tiny_bases, names, IDS)
    assert not torch.allclose(after[0], before[0], atol=1e-2)
    assert torch.equal(after[1:], before[1:])


def test_load_of_more_than_linear_modules_changes_nothing(tiny_base: Base, tmp_path: Path) -> None:
    folder = save_adapter(tiny_base.folder, tmp_path, r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    router = AdapterRouter(tiny_base.model)
    with pytest.raises(errors.Incompatible, match="is not a LoRA matrix"):
        router.load("wide", read_adapter(folder))
    assert not router._adapters
    assert not any(module._forward_hooks for module in tiny_base.model.modules())


def test_adapter_on_the_head_is_routed(tiny_base: Base, tmp_path: Path) -> None:
    folder = save_adapter(tiny_base.folder, tmp_path, r=4, target_modules=["lm_head", "q_proj"])
    saved = safetensors.torch.load_file(folder / WEIGHTS)
    # As saved with `save_embedding_layers=False`. Otherwise PEFT stores a copy of the base's head too.
    plain = {name: tensor for name, tensor in saved.items() if ".base_layer." not in name}
    safetensors.torch.save_file(plain, folder / WEIGHTS)
    router = AdapterRouter(tiny_base.model)
    router.load("head", read_adapter(folder))
    own = routed(router, tiny_base, ["head"], IDS)
    router.unload("head")
    untouched = logits(tiny_base)
    adapter = AttachableAdapter.load(folder, tiny_base)
    torch.testing.assert_close(own, logits(tiny_base), rtol=1e-5, atol=1e-5)
    adapter.detach()
    assert torch.equal(logits(tiny_base), untouched)
