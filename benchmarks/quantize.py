"""What storing adapters at fewer bits costs, over several domains: size, error of the update, held-out loss.

    python benchmarks/quantize.py [--base FOLDER] [--data FOLDER] [--adapters FOLDER]

Prints a table, and a last line of JSON of 4 bits: `ours` is the largest size over the domains as a share of bfloat16's
(0.30 is the most that is asked for), `peer` is 1, `ratio` the one over the other, and `loss_growth` the largest growth
of the held-out loss as a share of it (0.005).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import harness
import parents

from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize_all
from finch_hub.engine.export import quantization
from finch_hub.engine.training.adapter import LoRAAdapter


def main() -> None:
    given = parents.parser(__doc__ or "").parse_args()
    base = harness.load_base(given)
    found: dict[Literal["int8", "int4"], list[dict[str, Any]]] = {"int8": [], "int4": []}
    print(f"{'':10}{'':6}{'of bf16':>9}{'error':>9}{'loss':>9}{'after':>9}{'growth':>10}")
    with parents.made(base, given) as adapters, tempfile.TemporaryDirectory() as temporary:
        for adapter in adapters:
            rows = tokenize_all(adapter.validation, base.tokenizer, max_length=1024)
            before = measured(base, rows, adapter.folder)
            for scheme, lines in found.items():
                out = Path(temporary) / f"{adapter.name}-{scheme}"
                quantized = quantization.quantize(adapter.folder, out, scheme=scheme)
                (line,) = quantized.candidates
                after = measured(base, rows, out)
                growth = after / before - 1
                lines.append({**line, "growth": growth})
                print(
                    f"{adapter.name:10}{scheme:6}{line['share_of_bf16']:9.1%}{line['relative_error']:9.4f}"
                    f"{before:9.4f}{after:9.4f}{growth:+10.3%}",
                    flush=True,
                )
    share = max(line["share_of_bf16"] for line in found["int4"])
    growth = max(line["growth"] for line in found["int4"])
    harness.conclude("quantize", ours=round(share, 4), peer=1.0, ratio=share, loss_growth=round(growth, 5))


def measured(base: Base, rows: tuple[TokenizedExample, ...], folder: Path) -> float:
    adapter = LoRAAdapter.load(folder, base)
    try:
        return harness.held_out_loss(base, rows)
    finally:
        adapter.detach()


if __name__ == "__main__":
    main()
