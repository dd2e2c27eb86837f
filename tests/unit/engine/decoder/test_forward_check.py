"""Check of our ways to compute a loss against the base's own forward, for many families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import FAMILIES, Family, named, save_family
from support.training import adapted, assert_close, lessons, reference

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.engine.bases.rope import reset_rope
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.decoder import choose_decoder, make_head
from finch_hub.engine.decoder.evaluation import measure
from finch_hub.engine.decoder.forward_check import check_forward
from finch_hub.engine.decoder.loss import head_losses
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.specs.lora import LoRAConfig

CHANGED_LOGITS = {"gemma2", "granite", "falcon-h1", "recurrent-gemma", "cohere"}
Load = Callable[..., Base]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads a tiny model of a family, with changed fields of its configuration."""

    def load_family(name: str, *, dtype: Any = "float32", **changes: Any) -> Base:
        folder = save_family(named(name), tmp_path / name, **changes)
        return load_base(folder, dtype=dtype, device="cpu", cache=tmp_path)

    return load_family


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_is_computed_as_the_documentation_says(family: Family, dtype: str, load: Load) -> None:
    check = check_forward(load(family.name, dtype=dtype))
    assert check.is_packed == (family.forward == "packed")
    assert check.is_head_linear == (family.name not in CHANGED_LOGITS)
    assert check.rows_interact == (family.name == "longrope")
    assert bool(check.remark) == (check.rows_interact or not check.is_head_linear)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_loss_and_gradients_are_those_of_transformers(family: Family, load: Load) -> None:
    base = load(family.name)
    examples = tokenize_all(lessons(3), base.tokenizer, max_length=512)
    adapter = adapted(base)
    expected_loss, expected = reference(base, adapter, examples)
    assert measure(base, examples).loss == pytest.approx(expected_loss, rel=1e-5)
    batch = pack(examples, share_prefix=False)
    hidden = choose_decoder(base).hidden_states(batch, seed=0)
    scales = torch.full(batch.targets.shape, 1.0 / len(batch.targets))
    loss = head_losses(hidden, make_head(base), batch.targets, scales).sum()
    names, parameters = zip(*adapter.parameters().items(), strict=True)
    found = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    assert float(loss.detach()) == pytest.approx(expected_loss, rel=1e-5)
    assert_close(found, expected, tolerance=1e-4)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_loss_of_a_row_does_not_depend_on_its_batch(family: Family, load: Load) -> None:
    base = load(family.name)
    rows = tokenize_all(lessons(12), base.tokenizer, max_length=512)
    long = TokenizedExample(input_ids=rows[0].input_ids.repeat(3), labels=rows[0].labels.repeat(3))
    rows = (*rows[:3], long)
    alone = [measure(base, [row]).loss for row in rows]
    assert measure(base, rows).example_losses == pytest.approx(alone, rel=1e-5)
    assert measure(base, rows[::-1]).example_losses == pytest.approx(alone[::-1], rel=1e-5)


@pytest.mark.parametrize("name", ["longrope", "dynamic"])
def test_a_long_neighbor_or_an_earlier_row_does_not_set_the_positions_of_a_short_one(name: str, load: Load) -> None:
    """Rows of 10, 30 and 60 tokens in a model that was first trained on 16."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    changes = {"rope_parameters": dynamic, "max_position_embeddings": 16} if name == "dynamic" else {}
    base = load("llama" if name == "dynamic" else name, **changes)
    ids = np.arange(20, 80)
    rows = [TokenizedExample(input_ids=ids[:size], labels=np.arange(size) > 0) for size in (10, 60, 30)]
    alone = []
    for row in rows:
        reset_rope(base.model)
        labels = torch.from_numpy(row.input_ids)[None]
        with torch.no_grad():
            alone.append(float(base.model(input_ids=labels, labels=labels).loss))
    assert measure(base, rows).example_losses == pytest.approx(alone, rel=1e-5)
    assert measure(base, rows[::-1]).example_losses == pytest.approx(alone[::-1], rel=1e-5)
    assert not isinstance(choose_decoder(base), PackedDecoder)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("granite", "logits_scaling", 1.05),
        ("falcon-h1", "lm_head_multiplier", 0.98),
        ("cohere", "logit_scale", 1.02),
        ("recurrent-gemma", "logits_soft_cap", 4.0),
        ("gemma2", "final_logit_softcapping", 5.0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_small_change_of_the_logits_is_found(family: str, field: str, value: float, dtype: str, load: Load) -> None:
    base = load(family, dtype=dtype, **{field: value})
    check = check_forward(base)
    assert not check.is_head_linear
    assert "not the product of its head" in check.remark


def test_body_is_found_where_transformers_names_the_model_itself(tmp_path: Path) -> None:
    fields = {"config": "Llama4TextConfig", "num_local_experts": 2, "intermediate_size_mlp": 96}
    folder = save_family(Family(name="llama4", kind="Llama4", fields=fields), tmp_path / "llama4")
    base = load_base(folder, dtype="float32", device="cpu", cache=tmp_path)
    assert base.model.get_decoder() is base.model
    rows = tokenize_all(lessons(2), base.tokenizer, max_length=512)
    ids, labels = (torch.from_numpy(values)[None] for values in (rows[0].input_ids, rows[0].labels))
    own = base.model(input_ids=ids, labels=ids.masked_fill(~labels, -100)).loss
    assert measure(base, rows[:1]).loss == pytest.approx(float(own), rel=1e-5)


def test_a_change_that_no_setting_names_is_found(load: Load) -> None:
    """Code of the model decides, not a list of names."""
    base = load("llama")
    head = base.model.lm_head

    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    base.model.lm_head = Doubled(head.in_features, head.out_features, bias=False)
    base.model.lm_head.weight = head.weight
    examples = tokenize_all(lessons(3), base.tokenizer, max_length=512)
    adapter = adapted(base)
    assert measure(base, examples).loss == pytest.approx(reference(base, adapter, examples)[0], rel=1e-5)
    assert not isinstance(choose_decoder(base), PackedDecoder)


def test_not_a_number_is_no_agreement(load: Load) -> None:
    base = load("llama")
    decoder = base.model.get_decoder()
    own = decoder.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        output = own(*arguments, **options)
        if len(output.last_hidden_state) > 1:
            output.last_hidden_state[-1] = float("nan")
        return output

    decoder.forward = forward
    check = check_forward(base)
    assert check.rows_interact
    assert "rows of one batch change each other" in check.remark


def test_logits_that_do_not_follow_from_the_last_hidden_states_are_refused(load: Load) -> None:
    base = load("llama")
    own = base.model.forward

    def forward(input_ids: torch.Tensor | None = None, **options: Any) -> Any:
        output = own(input_ids=input_ids, **options)
        if input_ids is not None:
            output.logits = output.logits + torch.nn.functional.one_hot(input_ids, output.logits.shape[-1])
        return output

    base.model.forward = forward
    with pytest.raises(errors.Incompatible, match="do not follow from its last hidden states"):
        check_forward(base)


def test_a_loss_that_is_not_cross_entropy_is_refused(load: Load) -> None:
    base = load("llama")
    base.model.loss_function = lambda logits, labels, vocab_size, **_: logits.square().mean()
    with pytest.raises(errors.Incompatible, match="not the cross-entropy"):
        check_forward(base)


def test_adapters_and_hooks_do_not_change_the_check(load: Load) -> None:
    base = load("qwen3")
    adapter = AttachableAdapter(LoRAConfig(target_modules="all-linear"), base)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.fill_(float("nan"))
    hook = base.model.lm_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    base.model.train()
    assert check_forward(base).is_packed
    assert base.model.training
    assert len(base.model.lm_head._forward_hooks) == 1
    assert adapter.is_enabled
    assert torch.isnan(base.model(input_ids=torch.arange(5)[None]).logits).all()
    hook.remove()


def test_the_check_is_made_once(load: Load) -> None:
    base = load("llama")
    first = check_forward(base)
    base.model.forward = None
    assert check_forward(base) is first


def test_a_base_of_broken_weights_is_not_compared(load: Load) -> None:
    base = load("llama")
    base.model.get_input_embeddings().weight.fill_(float("nan"))
    assert check_forward(base).is_packed
