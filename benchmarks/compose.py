"""Seconds to combine LoRA adapters: this project's core space against PEFT's `add_weighted_adapter`.

Both sides start with adapters in memory and end with the factors of the combination, of the same rank and in float32.
They take turns, and the fastest of the same number of runs counts. PEFT computes thin matrices
(``svd_full_matrices=False``), which is its faster setting. The model is a Llama with SmolLM2-135M's shapes and random
weights (210 linear modules), so nothing is downloaded. The adapters are random, with rank 16 and scale 1. Neither
changes the amount of work. The second part takes single modules with the shapes of a 7B model, as many as PEFT can
combine in about a minute.

    python benchmarks/compose.py [--repeat 3] [--layers 30]
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import peft
import torch
import transformers
from peft.tuners.lora import LoraLayer, LoraModel
from torch import nn

from finch_hub.engine.composition import core_space, truncation
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.plugins.strategies import linear, parameters, ties, tsv

RANK = 16
PARENTS = ("a", "b", "c")
WEIGHTS = (0.5, 0.3, 0.4)


def smollm2(layers: int) -> nn.Module:
    """Return a Llama with layers of SmolLM2-135M and a vocabulary of 64. Only the layers matter here."""
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
    )
    return transformers.LlamaForCausalLM(config)


class Single(nn.Module):
    """One linear module of a 7B model."""

    def __init__(self, out: int, inside: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inside, out, bias=False)


def adapted(model: nn.Module, targets: str | list[str]) -> LoraModel:
    """Attach three random adapters to a model."""
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets)
    if isinstance(model, transformers.PreTrainedModel):
        config.task_type = "CAUSAL_LM"
        lora = peft.get_peft_model(model, config, adapter_name=PARENTS[0]).base_model
    else:
        lora = LoraModel(model, config, PARENTS[0])
    for name in PARENTS[1:]:
        lora.peft_config[name] = config
        lora.inject_adapter(lora.model, name)
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.02)
    return lora


def layers_of(lora: LoraModel) -> dict[str, LoraLayer]:
    return {name: module for name, module in lora.named_modules() if isinstance(module, LoraLayer)}


def parents_of(lora: LoraModel) -> list[ParentAdapter]:
    parents = []
    for name in PARENTS:
        factors = {
            path: Factors(B=layer.lora_B[name].weight.detach(), A=layer.lora_A[name].weight.detach())
            for path, layer in layers_of(lora).items()
        }
        parents.append(ParentAdapter.of(name, factors))
    return parents


def combine(
    adapters: list[ParentAdapter], kernel: Any, settings: Any, weights: tuple[float, ...] = WEIGHTS
) -> Mapping[str, Factors]:
    """Do all of this project's work: core space, strategy, truncation, factors."""
    core = core_space.build(adapters)
    return truncation.truncate(core, kernel.merge(core, weights, settings, seed=0), RANK)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def peer(lora: LoraModel, kind: str) -> float:
    """Return the seconds of PEFT's combination, which stays on the model as the adapter `kind`."""
    options = {"density": 0.5} if "ties" in kind else {}
    if kind in lora.peft_config:
        lora.delete_adapter(kind)
    begin = time.perf_counter()
    lora.add_weighted_adapter(
        list(PARENTS), list(WEIGHTS), kind, combination_type=kind, svd_rank=RANK, svd_full_matrices=False, **options
    )
    return time.perf_counter() - begin


def take_turns(work: Callable[[], Any], peer: Callable[[], float] | None, repeat: int) -> tuple[float, float, Any]:
    """Return the fewest seconds of both sides (infinity without a peer), and the result of `work`."""
    ours = peers = float("inf")
    result = None
    for _ in range(repeat):
        spent, result = seconds(work)
        ours = min(ours, spent)
        if peer is not None:
            peers = min(peers, peer())
    return ours, peers, result


def error(lora: LoraModel, combined: Mapping[str, Factors] | None, every: int) -> float:
    """Return the relative error of the weighted sum on every n-th module, of `combined` or (None) of PEFT's ``svd``."""
    squares = total = 0.0
    for path, layer in list(layers_of(lora).items())[::every]:
        with torch.no_grad():
            exact = sum(w * layer.get_delta_weight(name) for w, name in zip(WEIGHTS, PARENTS, strict=True))
            got = layer.get_delta_weight("svd") if combined is None else combined[path].B @ combined[path].A
        squares += float((got - exact).square().sum())
        total += float(exact.square().sum())
    return (squares / total) ** 0.5


def compare_large_modules(repeat: int) -> float:
    """Compare on single modules of a 7B model, as many as PEFT combines in a minute. Return the ratio over all."""
    print(f"\none module of a 7B model (linear to rank {RANK}; PEFT only while it is expected to end within a minute)")
    spent = ours_in_all = per_flop = 0.0
    for out, inside in ((4096, 4096), (4096, 11008), (11008, 4096)):
        single = adapted(Single(out, inside), ["proj"])
        adapters = parents_of(single)
        work = functools.partial(combine, adapters, linear, parameters.LinearParameters())
        flop = out * inside * min(out, inside)
        is_in_time = repeat * (spent + per_flop * flop) < 60
        ours, peer_seconds, _ = take_turns(work, functools.partial(peer, single, "svd") if is_in_time else None, repeat)
        line = f"{f'{out} x {inside}':28}{ours:10.4f}"
        if is_in_time:
            per_flop = peer_seconds / flop
            spent, ours_in_all = spent + peer_seconds, ours_in_all + ours
            line += f"{peer_seconds:10.1f}{peer_seconds / ours:8.0f}"
        print(line, flush=True)
    return spent / ours_in_all


def plot_costs(like: ParentAdapter) -> None:
    """Plot the seconds of this project by number of parents and rank."""
    print(f"\nmilliseconds on {len(like.factors)} modules by number of parents and rank (linear to rank {RANK})")
    figures: dict[tuple[int, int], float] = {}
    for count in (2, 4, 8):
        for rank in (4, 16, 64):
            parents = [make_random(like, rank, f"p{t}") for t in range(count)]
            work = functools.partial(combine, parents, linear, parameters.LinearParameters(), (1.0,) * count)
            figures[count, rank] = seconds(work)[0]
    longest = max(figures.values())
    for (count, rank), value in figures.items():
        bar = "#" * max(1, round(50 * value / longest))
        print(f"{count:>2} parents of rank {rank:>2} {1000 * value:8.0f}  {bar}", flush=True)


def make_random(like: ParentAdapter, rank: int, name: str) -> ParentAdapter:
    factors = {
        path: Factors(B=torch.randn(f.B.shape[0], rank) * 0.02, A=torch.randn(rank, f.A.shape[1]) * 0.02)
        for path, f in like.factors.items()
    }
    return ParentAdapter.of(name, factors)


def main() -> None:
    """Print a table and a last line of JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeat", type=int, default=3, help="runs of each side; the fastest counts")
    arguments.add_argument("--layers", type=int, default=30, help="layers of the model, of seven modules each")
    options = arguments.parse_args()
    repeat = options.repeat
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    lora = adapted(smollm2(options.layers), "all-linear")
    adapters = parents_of(lora)
    print(f"three adapters of rank {RANK} on {len(adapters[0].factors)} modules, {torch.get_num_threads()} threads")
    print(f"{'':28}{'seconds':>10}{'PEFT':>10}{'ratio':>8}{'error':>9}{'PEFT':>9}")
    ratios: dict[str, float] = {}
    figures: dict[str, float] = {}
    for name, kernel, settings, kind in (
        ("linear", linear, parameters.LinearParameters(), "svd"),
        ("ties", ties, parameters.TiesParameters(), "ties_svd"),
        ("tsv", tsv, parameters.TsvParameters(), None),
    ):
        work = functools.partial(combine, adapters, kernel, settings)
        ours, peer_seconds, combined = take_turns(work, functools.partial(peer, lora, kind) if kind else None, repeat)
        line = f"{name + (' / ' + kind if kind else ''):28}{ours:10.3f}"
        figures[name] = ours
        if kind is not None:
            figures[kind] = peer_seconds
            ratios[name] = peer_seconds / ours
            line += f"{peer_seconds:10.2f}{peer_seconds / ours:8.0f}"
        if name == "linear":
            line += f"{error(lora, combined, 10):9.4f}{error(lora, None, 10):9.4f}"
        print(line, flush=True)

    large = compare_large_modules(repeat)
    plot_costs(adapters[0])
    print(
        json.dumps(
            {
                "name": "compose",
                "ours": round(figures["linear"], 4),
                "peer": round(figures["svd"], 3),
                "ratio": round(ratios["linear"], 1),
                "ties_ratio": round(ratios["ties"], 1),
                "ties": round(figures["ties"], 4),
                "ratio_7b": round(large, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
