"""Cost of storing adapters with fewer bits, over several domains: size, error of the update, held-out loss.

    python benchmarks/quantize.py [--base FOLDER] [--data FOLDER] [--adapters FOLDER]

Prints a table and a last line of JSON for 4 bits: `ours` and `ratio` are the largest size over the domains as a share
of bfloat16's (the goal is 0.30), `peer` is 1, and `loss_growth` is the largest relative growth of the held-out loss
(the goal is 0.005).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import harness
import parents

from finch_hub import LoRAAdapter
from finch_hub.engine import Base, quantize
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize_all


def main() -> None:
    args = parents.make_parser(__doc__ or "").parse_args()
    base = harness.load_base(args)
    results: dict[Literal["int8", "int4"], list[dict[str, Any]]] = {"int8": [], "int4": []}
    print(f"{'':10}{'':6}{'of bf16':>9}{'error':>9}{'loss':>9}{'after':>9}{'growth':>10}")
    with parents.provide_adapters(base, args) as adapters, tempfile.TemporaryDirectory() as temporary:
        for adapter in adapters:
            rows = tokenize_all(adapter.validation, base.tokenizer, max_length=1024)
            before = measure(base, rows, adapter.folder)
            for scheme, lines in results.items():
                out = Path(temporary) / f"{adapter.name}-{scheme}"
                quantized = quantize(adapter.folder, out, scheme=scheme)
                (line,) = quantized.candidates
                after = measure(base, rows, out)
                growth = after / before - 1
                lines.append({**line, "growth": growth})
                print(
                    f"{adapter.name:10}{scheme:6}{line['share_of_bf16']:9.1%}{line['relative_error']:9.4f}"
                    f"{before:9.4f}{after:9.4f}{growth:+10.3%}",
                    flush=True,
                )
    share = max(line["share_of_bf16"] for line in results["int4"])
    growth = max(line["growth"] for line in results["int4"])
    harness.conclude("quantize", ours=round(share, 4), peer=1.0, ratio=share, loss_growth=round(growth, 5))


def measure(base: Base, rows: tuple[TokenizedExample, ...], folder: Path) -> float:
    adapter = LoRAAdapter.load(folder, base)
    try:
        return harness.held_out_loss(base, rows)
    finally:
        adapter.detach()


if __name__ == "__main__":
    main()
