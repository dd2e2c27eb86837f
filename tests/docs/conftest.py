"""A home with everything embedded, as a newcomer has it, and the files that the pages speak of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adapters import save_adapter
from support.gguf_files import save_gguf

from finch_hub import Hub


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Path]:
    """The newcomer's working directory; the worker that their jobs start is ended at the end."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("bird", "bee"):
        lines = "".join(f'{{"prompt": "What does {name} {n} do?", "completion": "It flies {n}."}}\n' for n in range(20))
        (folder / f"{name}s.jsonl").write_text(lines)
    (folder / ".demo" / "demo").mkdir(parents=True)
    save_gguf(tiny_folder, folder / ".demo" / "demo" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    save_adapter(tiny_folder, folder / "peft-folder", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINCH_HOME", str(folder / "home"))
        patch.chdir(folder)
        with Hub() as hub:
            yield folder
            hub.workers.stop_own()
