"""Merging an adapter into its base: the whole process, against PEFT's load, `merge_and_unload` and save.

Each run is a process of its own, from its first import to the written model. Finch Hub and PEFT take turns, and medians
are shown. PEFT computes in bfloat16 and in float32, both written as bfloat16, and its faster dtype counts. The bases
are SmolLM2-135M-Instruct (or `--base`), and a synthetic base with the layers of a 7B Llama in several shards. Finch Hub
flushes its files to the disk, and PEFT does not. So the plain copy is timed with and without a flush.

    python benchmarks/merge.py

Prints a table and a last line of JSON: `ours` and `peer` are seconds on the first base, and `ratio` is the smaller
peer / ours of the bases. Peaks are of resident memory, in bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

from finch_hub.formats.model_files import INDEX, ModelFiles
from finch_hub.formats.safetensors_file import write_safetensors

RANK = 16
PEER = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.{dtype})
PeftModel.from_pretrained(model, adapter).merge_and_unload().to(torch.bfloat16).save_pretrained(out)
"""
PEER_DTYPES = ("bfloat16", "float32")
OURS = """
import sys
from pathlib import Path
from finch_hub.engine import merge
base, adapter, out = map(Path, sys.argv[1:])
merge(base, [(adapter, 1.0)], out)
"""
# VmHWM is the peak of this process. `getrusage` would count the memory that the parent had at the fork.
PEAK = """
from pathlib import Path
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def random_bf16(generator: np.random.Generator, *shape: int) -> tuple[str, np.ndarray]:
    """Return bit patterns of magnitudes from 2^-7 to 2^-5, with either sign."""
    size = int(np.prod(shape))
    bits = generator.integers(0x3C00, 0x3D00, size, np.uint16) | generator.integers(0, 2, size, np.uint16) << 15
    return "BF16", bits.reshape(shape)


def make_base(folder: Path, layers: int) -> Path:
    """Write a model with the layers of a 7B Llama: a shard for each layer, and a shard for the rest."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    width, inner, vocabulary = LLAMA["hidden_size"], LLAMA["intermediate_size"], LLAMA["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    norms = ("input_layernorm", "post_attention_layernorm")
    weight_map: dict[str, str] = {}
    for layer in range(layers + 1):
        if layer < layers:
            path = f"model.layers.{layer}"
            wanted = {f"{path}.{name}.weight": shape for name, shape in shapes.items()}
            wanted |= {f"{path}.{name}.weight": (width,) for name in norms}
        else:
            wanted = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (vocabulary, width))
            wanted["model.norm.weight"] = (width,)
        shard = f"model-{layer + 1:05}-of-{layers + 1:05}.safetensors"
        tensors = {name: random_bf16(generator, *shape) for name, shape in wanted.items()}
        write_safetensors(folder / shard, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(wanted, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": layers}))
    return folder


def make_adapter(base: Path, folder: Path) -> Path:
    """Write a random adapter on all linear modules of the decoder layers."""
    folder.mkdir()
    generator = np.random.default_rng(1)
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    with ModelFiles(base) as files:
        modules = [name.removesuffix(".weight") for name in files.shard_of if name.endswith("_proj.weight")]
        for path in modules:
            rows, columns = files.info(f"{path}.weight").shape
            for name, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
                factor = 0.01 * generator.standard_normal(shape, np.float32)
                tensors[f"base_model.model.{path}.lora_{name}.weight"] = "F32", factor
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": sorted({path.rpartition(".")[2] for path in modules}),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def run(script: str, base: Path, adapter: Path, out: Path) -> tuple[float, int]:
    """Run a script in a process of its own. Return its seconds and its peak resident memory in bytes."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", script + PEAK, str(base), str(adapter), str(out)]
    began = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, int(done.stdout.split()[-1]) * 1024


def copy(base: Path, out: Path, *, flush: bool) -> float:
    """Copy the weights. Return the seconds."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    began = time.perf_counter()
    for file in base.glob("*.safetensors"):
        shutil.copyfile(file, out / file.name)
        if flush:
            with (out / file.name).open("rb") as stream:
                os.fsync(stream.fileno())
    return time.perf_counter() - began


def compare(name: str, base: Path, work: Path, repeats: int) -> dict[str, Any]:
    """Measure one base and print its row."""
    adapter = make_adapter(base, work / f"{name}-adapter")
    scripts = {"ours": OURS, **{dtype: PEER.format(dtype=dtype) for dtype in PEER_DTYPES}}
    sides: dict[str, list[tuple[float, int]]] = {side: [] for side in scripts}
    copies: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats):
        for side, script in scripts.items():
            sides[side].append(run(script, base, adapter, work / "out"))
        for flush, seconds in copies.items():
            seconds.append(copy(base, work / "out", flush=flush))
    shutil.rmtree(work / "out")
    medians = {side: statistics.median(seconds for seconds, _ in runs) for side, runs in sides.items()}
    dtype = min(PEER_DTYPES, key=lambda name: medians[name])
    ours, peer = medians["ours"], medians[dtype]
    peaks = {"ours": max(peak for _, peak in sides["ours"]), "peer": max(peak for _, peak in sides[dtype])}
    plain, flushed = (statistics.median(copies[flush]) for flush in (False, True))
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    print(
        f"{name:<12}{size / 1e6:>9.0f}{ours:>9.2f}{peer:>9.2f}{peer / ours:>8.1f}x{peaks['ours'] / 1e6:>9.0f}"
        f"{peaks['peer'] / 1e6:>9.0f}{plain:>9.2f}{flushed:>9.2f}{flushed / ours:>9.0%}  {dtype}",
        flush=True,
    )
    return {
        "bytes": size,
        "ours": ours,
        "peer": peer,
        "peer_dtype": dtype,
        "ratio": peer / ours,
        "peak_ours": peaks["ours"],
        "peak_peer": peaks["peer"],
        "copy": plain,
        "copy_flushed": flushed,
        "share_of_copy": flushed / ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder, GGUF file or Hugging Face id (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--layers", type=int, default=3, help="layers of the synthetic 7B model; 0 omits it")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--work", type=Path, help="folder on the disk to measure (default: a temporary folder)")
    options = parser.parse_args()

    print(f"rank {RANK} on all linear modules, bf16; {options.repeats} processes of each side, medians, highest peaks")
    heads = ("MB", "ours s", "PEFT s", "ratio", "ours MB", "PEFT MB", "copy s", "flushed", "share")
    print(f"{'base':<12}" + "".join(f"{head:>9}" for head in heads))
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        work = Path(scratch)
        name = Path(options.base).stem if options.base else "SmolLM2-135M"
        figures = {name: compare(name, harness.base_folder(options), work, options.repeats)}
        if options.layers:
            figures["7B layers"] = compare("7B layers", make_base(work / "7B", options.layers), work, options.repeats)
    first = next(iter(figures.values()))
    ratio = min(row["ratio"] for row in figures.values())
    print(json.dumps({"name": "merge", "ours": first["ours"], "peer": first["peer"], "ratio": ratio, "bases": figures}))


if __name__ == "__main__":
    main()
