"""A small training in a process of its own, which prints the most memory that it took; run as a script."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def main() -> None:
    folder, lora, training, words, count = sys.argv[1:]
    from finch_hub.engine.bases.base import load_base
    from finch_hub.engine.data.tokenizing import tokenize_all
    from finch_hub.engine.training import loop
    from finch_hub.specs.examples import Example
    from finch_hub.specs.lora import LoRAConfig
    from finch_hub.specs.training import TrainingConfig

    settings = TrainingConfig.of(json.loads(training))
    base = load_base(Path(folder), dtype=settings.dtype, device="cpu", cache=Path(folder))
    examples = [Example.of_pair(f"{n} seeds " * int(words), "A finch eats seeds. " * 8) for n in range(int(count))]
    longest = max(len(one) for one in tokenize_all(examples, base.tokenizer, system=None, max_length=2048))
    loop.train(base, LoRAConfig.of(json.loads(lora)), settings, examples, workdir=Path(folder) / "work")
    print(json.dumps({"longest": longest, "peak": _peak_bytes()}))


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, `ru_maxrss` is at least the memory of the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
