"""Check of the fast ways to compute a base's loss against the base's own forward, once for each base."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.bases.rope import depends_on_length, reset_rope
from finch_hub.engine.data.batches import pack
from finch_hub.engine.data.row_time import limit_tokenizing
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.decoder.body import find_body
from finch_hub.engine.decoder.loss import Head
from finch_hub.engine.decoder.own_head import has_linear_head
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.padded import PaddedDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TEXTS = (
    "The finch is a small bird that eats seeds, buds and, in spring, a few insects. It lays four or five eggs.",
    "def add(first, second): return first + second",
)
_MAX_TOKENS = 32
# Error of float32 that is far below every factor or cap of logits, and far above rounding.
_LEAST_TOLERANCE = 1e-4
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardCheck:
    """Ways that compute the same as a base's own forward, beyond rounding.

    Attributes:
        is_packed: whether the packed decoder does.
        is_head_linear: whether the logits are the product of the head's linear module.
        rows_interact: whether a row of a padded batch depends on the other rows.
        remark: sentence about the difference, for users; empty for none.
    """

    is_packed: bool
    is_head_linear: bool
    rows_interact: bool
    remark: str = ""


_checks: WeakKeyDictionary[PreTrainedModel, ForwardCheck] = WeakKeyDictionary()


def check_forward(base: Base) -> ForwardCheck:
    """Compare our ways with the base's own forward on two short texts, in its dtype; cached for each model in memory.

    Errors are relative to the norm of all values. The same states give logits that differ by less than a unit of the
    dtype. Hidden states differ by the rounding of all layers: two units on SmolLM2-135M in bfloat16, 16 are accepted. A
    base whose own values are not finite is not compared.

    Raises:
        Incompatible: neither way computes the base's own loss.
    """
    if base.model not in _checks:
        is_training = base.model.training
        base.model.eval()
        with torch.no_grad(), _without_adapters(base.model):
            _checks[base.model] = _compare(base)
        base.model.train(is_training)
    return _checks[base.model]


def _compare(base: Base) -> ForwardCheck:
    model, kind = base.model, type(base.model).__name__
    rows = _examples(base)
    hidden, logits, losses = _own_forward(model, rows, base.device)
    can_pack = base.device.type == "cpu" and PackedDecoder.fits_architecture(model)
    is_linear, interact = has_linear_head(model), depends_on_length(model)
    if not all(torch.isfinite(own).all() for own in (hidden, logits)):
        return ForwardCheck(is_packed=can_pack, is_head_linear=is_linear, rows_interact=interact)
    targets = torch.cat([torch.from_numpy(row.input_ids[1:]) for row in rows]).to(base.device)
    unit = torch.finfo(hidden.dtype).eps
    exact, rounded = _LEAST_TOLERANCE + unit, _LEAST_TOLERANCE + 16 * unit
    remarks = []
    if is_linear and not _error(Head(model, is_linear=True).logits(hidden), logits) <= exact:
        is_linear = False
        remarks.append(f"the logits of {kind} are not the product of its head, so its own forward computes them")
    if not is_linear and not _error(Head(model, is_linear=False).logits(hidden), logits) <= exact:
        what = f"the logits of {kind} do not follow from its last hidden states"
        raise errors.Incompatible(what, subject=f"base model {base.name}")
    loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    means = torch.stack([part.mean() for part in torch.split(loss, [len(row) - 1 for row in rows])])
    if not _error(means, losses.float()) <= exact:
        what = f"the loss of {kind} is not the cross-entropy of its logits"
        raise errors.Incompatible(what, subject=f"base model {base.name}")
    batch = pack(rows, share_prefix=False).to(base.device)
    interact = interact or not _error(PaddedDecoder(model).hidden_states(batch), hidden) <= rounded
    if interact:
        remarks.append(f"rows of one batch change each other in {kind}, so each row is computed alone")
    is_packed = can_pack and _error(PackedDecoder(model).hidden_states(batch), hidden) <= rounded
    if can_pack and not is_packed:
        remarks.append(f"packed rows do not compute the same as {kind}, so its own forward computes them")
    remark = "; ".join(remarks)
    return ForwardCheck(is_packed=is_packed, is_head_linear=is_linear, rows_interact=interact, remark=remark)


def _examples(base: Base) -> list[TokenizedExample]:
    """Return two examples of different lengths; every token but the first is a label."""
    examples = []
    for text in _TEXTS:
        with limit_tokenizing("a text that checks the model"):
            ids = np.array(base.tokenizer(text)["input_ids"][:_MAX_TOKENS] or [0], dtype=np.int64)
        ids = np.minimum(ids, base.num_embeddings - 1)  # the tokenizer may have tokens that the model does not know
        ids = np.resize(ids, max(len(ids), 4))  # a tokenizer may know none of the words
        examples.append(TokenizedExample(input_ids=ids, labels=np.arange(len(ids)) > 0))
    return examples


def _own_forward(model: Any, rows: Sequence[TokenizedExample], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states [L, d] and logits [L, V] that predict the labels, and each row's loss, one row at a time."""
    hidden: list[Tensor] = []
    logits, losses = [], []
    handle = find_body(model).register_forward_hook(
        lambda module, inputs, output: hidden.append(output.last_hidden_state[0, :-1])
    )
    try:
        for row in rows:
            reset_rope(model)
            ids = torch.from_numpy(row.input_ids)[None].to(device)
            output = model(input_ids=ids, labels=ids, use_cache=False)
            logits.append(output.logits[0, :-1])
            losses.append(output.loss)
    finally:
        handle.remove()
    return torch.cat(hidden), torch.cat(logits), torch.stack(losses)


def _error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to the norm of the expected values; NaN if a value is."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@contextmanager
def _without_adapters(model: torch.nn.Module) -> Iterator[None]:
    """Disable PEFT's layers and hooks in this context: the result is cached for the base alone."""
    modules: list[Any] = list(model.modules())
    layers = [module for module in modules if isinstance(module, BaseTunerLayer) and not module.disable_adapters]
    hooks = [(module, name, vars(module)[name]) for module in modules for name in _HOOKS if vars(module)[name]]
    for layer in layers:
        layer._disable_adapters = True
    for module, name, _ in hooks:
        setattr(module, name, OrderedDict())
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
        for module, name, own in hooks:
            setattr(module, name, own)
