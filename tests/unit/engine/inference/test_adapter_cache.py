"""Cache of a generator's adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.inference.generator import GeneratorModel

PROMPTS = ["What does a finch eat?", "Where does it live, and why?", "Take", "How many eggs does it lay?"]


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [save_adapter(tiny_folder, root / f"adapter-{n}", seed=n, **VARIANTS["plain"]) for n in range(4)]


def test_least_recently_used_adapters_leave_memory_and_are_read_again(tiny_base: Base, folders: list[Path]) -> None:
    roomy, tight = GeneratorModel(tiny_base), GeneratorModel(tiny_base, cache_size=2)
    for folder in folders:
        roomy.load_lora(folder)
        tight.load_lora(folder)
    assert tight.adapters == roomy.adapters
    assert list(tight._router._adapters) == ["adapter-2", "adapter-3"]
    tight.switch("adapter-2")
    tight.switch("adapter-0")
    assert set(tight._router._adapters) == {"adapter-0", "adapter-2"}
    for name in roomy.adapters:
        assert tight.generate("Take", adapter=name, max_new_tokens=8) == roomy.generate(
            "Take", adapter=name, max_new_tokens=8
        )
    # A batch can have more adapters than the cache holds.
    assert tight.generate(PROMPTS, adapter=list(tight.adapters), max_new_tokens=8) == roomy.generate(
        PROMPTS, adapter=list(roomy.adapters), max_new_tokens=8
    )
    tight.switch("adapter-1")
    assert len(tight._router._adapters) == 2


def test_adapter_that_changed_on_disk_is_not_read_again(tiny_base: Base, tmp_path: Path) -> None:
    first, second = (save_adapter(tiny_base.folder, tmp_path / name, **VARIANTS["plain"]) for name in ("a", "b"))
    model = GeneratorModel(tiny_base, cache_size=1)
    model.load_lora(first)
    model.load_lora(second)
    save_adapter(tiny_base.folder, tmp_path / "a", seed=9, **VARIANTS["rslora"])
    with pytest.raises(errors.Conflict, match="has changed"):
        model.switch("a")
    model.load_lora(first)
    assert model.active == "a"
