"""EVA: directions of most variance in the inputs of modules."""

from __future__ import annotations

import pytest
import torch
from support.training import lessons

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.bases.layout_builder import describe_model
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.rank import eva
from finch_hub.progress import Advance


def test_eva_finds_orthonormal_directions_of_the_inputs(tiny_base: Base, told: list[Advance]) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    paths = [f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj")]
    found = eva.find_directions(tiny_base, paths, examples, rank=4)
    passes = [advance.done for advance in told if advance.work == "finding directions"]
    assert passes == [*range(1, len(passes) + 1)] != []
    assert {len(rows) for rows in found.rows.values()} == {4}
    assert found.inputs == 2  # q and v read the same
    for rows in found.rows.values():
        assert torch.allclose(rows @ rows.T, torch.eye(4), atol=1e-3)
    seen: list[torch.Tensor] = []
    module = tiny_base.model.get_submodule(paths[0])
    hook = module.register_forward_hook(lambda module, args, output: seen.append(args[0][0]))
    with torch.no_grad():
        for example in examples:
            tiny_base.model(input_ids=torch.from_numpy(example.input_ids)[None])
    hook.remove()
    labeled = [states[torch.from_numpy(example.labels)] for states, example in zip(seen, examples, strict=True)]
    inputs = torch.cat(labeled)
    inputs = inputs - inputs.mean(0)
    explained = (inputs @ found.rows[paths[0]].T).square().sum()
    assert explained > 0.95 * torch.linalg.svdvals(inputs)[:4].square().sum()


def test_eva_redistributes_ranks(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    paths = list(describe_model(tiny_base.model, name="").inner_linear)
    found = eva.find_directions(tiny_base, paths, examples, rank=4, redistribution=2.0)
    ranks = [len(rows) for rows in found.rows.values()]
    assert sum(ranks) == 4 * len(paths)
    assert len(set(ranks)) > 1
    assert max(ranks) <= 8
    assert not any(module._forward_hooks for module in tiny_base.model.modules())


def test_eva_fails_on_a_base_whose_states_are_not_finite(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    with torch.no_grad():
        tiny_base.model.get_input_embeddings().weight.fill_(torch.inf)
    with pytest.raises(errors.TrainingFailed, match="not finite"):
        eva.find_directions(tiny_base, ["model.layers.0.self_attn.q_proj"], examples, rank=4)
