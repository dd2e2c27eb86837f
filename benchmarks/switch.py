"""Many adapters on one base: switching between them, and a batch with an adapter for each prompt.

Switching is measured against PEFT's `load_adapter` and `set_adapter` on the same adapters in memory. PEFT takes longer
for each adapter the more it has, so it holds as many as it can load within half a minute. The mixed batch is measured
against PEFT's own mixed batch, `generate` with `adapter_names`, in the same dtype. It is also measured against the same
prompts one adapter at a time. The sides take turns, and medians are shown. Adapters are random, on all linear modules.

    python benchmarks/switch.py

Prints a table and a last line of JSON: `ours` and `peer` are seconds of the mixed batch, of Finch Hub and of PEFT, and
`ratio` is peer / ours. `one_at_a_time` is of Finch Hub. `equal` and `equal_peft` count the answers that equal those of
the mixed batch. `switch_…` and `load_…` are seconds of one switch or load, of Finch Hub and of PEFT.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
import peft
import torch

from finch_hub import GeneratorModel, LoRAConfig
from finch_hub.engine import Base, load_base
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter

PLACES = (
    "Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo", "Delhi", "Quito",
    "Accra", "Dakar", "Kyoto", "Milan", "Turin", "Porto", "Sofia", "Minsk",
)  # fmt: skip
PEER_SECONDS = 30
PROMPTS = [f"Write a long story about the city of {place}." for place in PLACES]


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make_adapters(base: Base, folder: Path, *, count: int, rank: int) -> list[Path]:
    """Write random adapters with updates so small that the base still answers in sentences."""
    adapter = AttachableAdapter(LoRAConfig(rank=rank, target_modules="all-linear"), base)
    folders = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in adapter.parameters().items():
                if "lora_B" in name:
                    parameter.normal_(std=0.005, generator=generator)
        folders.append(folder / f"adapter-{number}")
        adapter.save(folders[-1])
    adapter.detach()
    return folders


def measure_ours(base: Base, folders: list[Path], order: list[str]) -> tuple[list[float], list[float]]:
    """Return the seconds of each load and switch, until the base computes with the adapter."""
    model = GeneratorModel(base, cache_size=len(folders))

    def switch(name: str) -> None:
        model.switch(name)
        with model.using():
            pass

    loads = [seconds_of(partial(model.load_lora, folder)) for folder in folders]
    return loads, [seconds_of(partial(switch, name)) for name in order]


def measure_peft(base: Base, folders: list[Path], order: list[str]) -> tuple[list[float], list[float]]:
    """Return the same for PEFT's fastest way, on its own model, with as many adapters as it loads in time."""
    fresh = load_base(base.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(fresh.model, folders[0], adapter_name=folders[0].name)
        loads: list[float] = []
        for folder in folders[1:]:
            began = time.perf_counter()
            model.load_adapter(folder, folder.name, low_cpu_mem_usage=True)
            loads.append(time.perf_counter() - began)
            if sum(loads) > PEER_SECONDS:
                break
        names = [name for name in order if name in model.peft_config][:50]
        return loads, [seconds_of(partial(model.set_adapter, name)) for name in names]


def make_peft_batch(base: Base, folders: list[Path], of_rows: list[str], tokens: int) -> Callable[[], list[str]]:
    """Return PEFT's greedy answers to all prompts in one batch, on its own model."""
    fresh = load_base(base.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(fresh.model, folders[0], adapter_name=folders[0].name)
        for folder in folders[1:]:
            model.load_adapter(folder, folder.name, low_cpu_mem_usage=True)
    model.eval()
    tokenizer = fresh.tokenizer
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    texts = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)

    def generate() -> list[str]:
        with torch.inference_mode():
            ids = model.generate(
                **inputs,
                adapter_names=of_rows,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        return list(tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder, GGUF file or Hugging Face id (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--adapters", type=int, default=100, help="adapters in memory while switching")
    parser.add_argument("--rank", type=int, default=4, help="rank of the adapters that are switched")
    parser.add_argument("--tokens", type=int, default=64, help="maximum tokens of an answer in the batch")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side of the batch")
    options = parser.parse_args()

    base = load_base(harness.base_folder(options))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_adapters(base, Path(scratch), count=options.adapters, rank=options.rank)
        order = random.Random(0).choices([folder.name for folder in folders], k=200)
        for side, measure in (("ours", measure_ours), ("peft", measure_peft)):
            loads, switches = measure(base, folders, order)
            held = len(folders) if side == "ours" else len(loads) + 1
            found[f"adapters_{side}"] = held
            for what, seconds in (("load", loads), ("switch", switches)):
                found[f"{what}_{side}"] = statistics.median(seconds)
                found[f"{what}_{side}_p95"] = statistics.quantiles(seconds, n=20)[-1]
    print(f"adapters of rank {options.rank} on all linear modules; one operation, median (95th percentile), ms")
    heads = (f"ours, {found['adapters_ours']} in memory", f"PEFT, {found['adapters_peft']} in memory")
    print(" " * 8 + "".join(f"{head:>24}" for head in heads))
    for what in ("load", "switch"):
        cells = (f"{1e3 * found[f'{what}_{s}']:.3f} ({1e3 * found[f'{what}_{s}_p95']:.3f})" for s in ("ours", "peft"))
        print(f"{what:<8}" + "".join(f"{cell:>24}" for cell in cells))

    with tempfile.TemporaryDirectory() as scratch:
        model = GeneratorModel(base)
        folders = make_adapters(base, Path(scratch), count=8, rank=16)
        names = [model.load_lora(folder) for folder in folders]
        of_rows = [names[row % len(names)] for row in range(len(PROMPTS))]

        def mixed() -> list[str]:
            return model.generate(PROMPTS, adapter=list(of_rows), max_new_tokens=options.tokens)

        def one_at_a_time() -> list[str]:
            answers = [""] * len(PROMPTS)
            for name in names:
                rows = [row for row, wanted in enumerate(of_rows) if wanted == name]
                prompts = [PROMPTS[row] for row in rows]
                for row, answer in zip(
                    rows, model.generate(prompts, adapter=name, max_new_tokens=options.tokens), strict=True
                ):
                    answers[row] = answer
            return answers

        sides = {
            "ours": mixed,
            "peer": make_peft_batch(base, folders, of_rows, options.tokens),
            "one_at_a_time": one_at_a_time,
        }
        answers = {side: work() for side, work in sides.items()}  # this also warms up
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side, work in sides.items():
                times[side].append(seconds_of(work))
    medians = {side: statistics.median(taken) for side, taken in times.items()}
    equal = {side: sum(map(str.__eq__, answers["ours"], answers[side])) for side in sides}
    print(f"{len(PROMPTS)} prompts on {len(names)} adapters, up to {options.tokens} tokens each, {base.dtype}, seconds")
    for side, name in (("ours", "mixed"), ("peer", "PEFT's adapter_names"), ("one_at_a_time", "one adapter at a time")):
        ratio = medians[side] / medians["ours"]
        print(f"{name:<24}{medians[side]:8.2f}{ratio:7.1f}x  {equal[side]} answers equal those of the mixed batch")
    line = {
        "name": "switch",
        "ours": medians["ours"],
        "peer": medians["peer"],
        "ratio": medians["peer"] / medians["ours"],
        "one_at_a_time": medians["one_at_a_time"],
        "equal": equal["one_at_a_time"],
        "equal_peft": equal["peer"],
    }
    print(json.dumps(line | found))


if __name__ == "__main__":
    main()
