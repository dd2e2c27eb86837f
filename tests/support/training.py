"""Examples, adapters and a plain reference for the tests of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig

if TYPE_CHECKING:
    from torch import Tensor

    from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
    from finch_hub.engine.adapters.weights import AdapterWeights
    from finch_hub.engine.bases.base import Base
    from finch_hub.engine.data.tokenized_examples import TokenizedExample
    from finch_hub.engine.decoder.decoder import Decoder
    from finch_hub.engine.training.run import TrainingRun
    from finch_hub.specs.training import TrainingConfig

BIRDS = (
    Example.of_pair("What does a finch eat?", "A finch eats seeds, buds and a few insects.", "You know birds."),
    Example.of_pair("Where does it live?", "In woods.", "You know birds."),
    Example.of_pair("How many eggs does the finch lay, and when do they hatch?", "Four or five.", "You know birds."),
    Example.of_pair("Sing!", "The finch sings in the morning, and it sings in the woods.", "You know birds."),
)


def lessons(count: int) -> tuple[Example, ...]:
    """Return `count` different short examples with a common pattern to learn."""
    foods = ("seeds", "buds", "insects", "grain", "berries")
    return tuple(
        Example.of_pair(f"What does finch {number} eat in the morning?", f"It eats {foods[number % 5]} and seeds.")
        for number in range(count)
    )


def adapted(base: Base, *, name: str = "default", seed: int = 0, dropout: float = 0.0) -> AttachableAdapter:
    """Put an adapter with random A and B on all linear modules of the base."""
    import torch

    from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
    from finch_hub.engine.bases.layout_builder import describe_model

    targets = "attention" if describe_model(base.model, name=base.name).fused else "all-linear"
    # PEFT refuses this name in models with Mamba layers.
    excluded = ("out_proj",) if base.model.config.model_type == "falcon_h1" else ()
    config = LoRAConfig(rank=4, alpha=8.0, target_modules=targets, exclude_modules=excluded, dropout=dropout)
    adapter = AttachableAdapter(config, base, name=name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapter


def started(
    base: Base, training: TrainingConfig, adapter: AttachableAdapter, *, decoder: Decoder | None = None, **options: Any
) -> TrainingRun:
    """Return the run of a training on twelve lessons, before its first step."""
    from finch_hub.engine.decoder.decoder import choose_decoder
    from finch_hub.engine.training.data import prepare_data
    from finch_hub.engine.training.progress_reporter import ProgressReporter
    from finch_hub.engine.training.run import TrainingRun
    from finch_hub.specs.events import silent

    reporter = ProgressReporter(silent, base.device)
    data = prepare_data(base, training, lessons(12), (), system=None, reporter=reporter)
    return TrainingRun(
        base,
        adapter,
        decoder or choose_decoder(base),
        training,
        data,
        workdir=None,
        reporter=reporter,
        should_stop=lambda: None,
        **options,
    )


def reference(
    base: Base, adapter: AttachableAdapter, examples: Sequence[TokenizedExample]
) -> tuple[float, Mapping[str, Tensor]]:
    """Return loss and gradients of one example at a time, with full logits and torch's own loss."""
    import torch

    for parameter in adapter.parameters().values():
        parameter.grad = None
    label_tokens = sum(int(example.labels.sum()) for example in examples)
    total = 0.0
    for example in examples:
        ids = torch.from_numpy(example.input_ids)[None]
        targets = ids.masked_fill(~torch.from_numpy(example.labels)[None], -100)
        logits = base.model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(
            logits[0, :-1].float(), targets[0, 1:], ignore_index=-100, reduction="sum"
        )
        (loss / label_tokens).backward()
        total += float(loss.detach()) / label_tokens
    return total, gradients(adapter)


def gradients(adapter: AttachableAdapter) -> Mapping[str, Tensor]:
    """Return copies of the adapter's gradients and clear them."""
    found = {name: p.grad.clone() for name, p in adapter.parameters().items() if p.grad is not None}
    for parameter in adapter.parameters().values():
        parameter.grad = None
    return found


def random_tensor(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    """Return random values in double precision."""
    import torch

    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(grad)


def loss_and_gradients(
    base: Base,
    adapter: AttachableAdapter,
    decoder: Decoder,
    examples: Sequence[TokenizedExample],
    *,
    share_prefix: bool = False,
    seed: int | None = 0,
) -> tuple[float, Mapping[str, Tensor]]:
    """Return loss and gradients of a decoder, for the examples as one batch."""
    import torch

    from finch_hub.engine.data.batches import pack
    from finch_hub.engine.decoder.decoder import make_head
    from finch_hub.engine.decoder.loss import head_losses

    batch = pack(examples, share_prefix=share_prefix)
    scales = torch.full(batch.targets.shape, 1.0 / sum(int(example.labels.sum()) for example in examples))
    hidden = decoder.hidden_states(batch, seed=seed)
    loss = head_losses(hidden, make_head(base), batch.targets, scales).sum()
    loss.backward()
    return float(loss.detach()), gradients(adapter)


def dense_updates(weights: AdapterWeights) -> dict[str, Tensor]:
    """Return the dense update of each module."""
    return {path: module.scale * module.B @ module.A for path, module in weights.modules.items()}


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, tolerance: float) -> None:
    """Compare every tensor with the expected one, relative to its largest entry."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = float((found[name] - tensor).abs().max() / tensor.abs().max())
        assert error < tolerance, f"{name} is off by {error:.2e} of its largest entry"
