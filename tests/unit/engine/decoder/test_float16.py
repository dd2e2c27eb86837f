"""Float16, which a CPU refuses and older GPUs train in: what of it can be held without one."""

from __future__ import annotations

from dataclasses import replace

import torch
from support.training import adapted, gradients, lessons

from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder.decoder import Head, PaddedDecoder
from finch_hub.engine.decoder.loss import head_losses
from finch_hub.engine.training import loop
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig


def test_gradients_do_not_vanish_in_a_step_of_ten_thousand_label_tokens(tiny_base: Base) -> None:
    """Divided by that many they lie near the least numbers of float16, and still are nearer than bfloat16's."""
    examples = tokenize_all(lessons(8), tiny_base.tokenizer, max_length=512)
    batch = pack(examples, share_prefix=False)
    adapter = adapted(tiny_base)
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, parameter in tiny_base.model.named_parameters():
            if ".lora_" not in name:
                parameter.data = parameter.data.to(dtype)
        head = Head(tiny_base.model)
        hidden = PaddedDecoder(tiny_base.model).hidden(batch)
        scales = torch.full(batch.targets.shape, 1e-4)
        head_losses(hidden, head.product, batch.targets, scales).sum().backward()
        found[dtype] = torch.cat([gradient.flatten() for gradient in gradients(adapter).values()])
    exact = found.pop(torch.float32)
    errors = {dtype: float((gradient - exact).norm() / exact.norm()) for dtype, gradient in found.items()}
    assert errors[torch.float16] < errors[torch.bfloat16] < 0.1


def test_a_float16_base_is_trained_with_a_float32_adapter(tiny_base: Base) -> None:
    base = replace(tiny_base, model=tiny_base.model.half(), dtype=torch.float16)
    training = TrainingConfig(epochs=4, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2, packing=False)
    trained = loop.train(base, LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear"), training, lessons(24))
    assert trained.report.before is not None
    assert trained.report.after is not None
    assert trained.report.after.loss < 0.9 * trained.report.before.loss
    assert trained.report.environment["dtype"] == "float16"
    assert {parameter.dtype for parameter in trained.adapter.parameters().values()} == {torch.float32}
