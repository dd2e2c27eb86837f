"""Coverage-guided fuzzing of one parser with Atheris: ``python -m support.fuzz TARGET SECONDS SEED FOLDER``.

Atheris is not in the lock, since it has no wheels for some systems. `make fuzz` fetches it into a folder of its own.
Inputs that took new ways are kept in the folder. An input that fails is written there, with the parser in its
name. Copied to `tests/data/fuzz/PARSER`, it is a test.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

MEGABYTES, SECONDS = 1024, 5
"""Most memory of the process, and most time of an input."""


def main(target: str, seconds: str, seed: str, folder: str) -> None:
    """Fuzz a parser. The process ends here, with an error if an input failed."""
    library: Any = importlib.import_module("atheris")
    with library.instrument_imports(include=["finch_hub", "zipfile", "tarfile", "csv", "json"]):
        from support import fuzz_targets

    corpus = Path(folder) / target
    corpus.mkdir(parents=True, exist_ok=True)
    for place, content in enumerate(fuzz_targets.TARGETS[target].seeds):
        (corpus / f"seed-{place}").write_bytes(content)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={int(seed) % 2**32}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={MEGABYTES}",
        "-max_len=65536",
    ]
    options += [f"-artifact_prefix={folder}/{target}-", "-print_final_stats=1", str(corpus)]
    library.Setup([sys.argv[0], *options], lambda content: fuzz_targets.run(target, content))
    library.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
