"""What cannot be done with which adapter: the statement, the table in the docs, and what happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.adapters import save_adapter
from support.families import named, save_family
from support.models import ARCHITECTURES, save_model

from finch_hub import errors
from finch_hub.artifacts.gate import admit_adapter
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.bases.module_layout import read_layout
from finch_hub.engine.composition import parents
from finch_hub.engine.export import gguf, merging, ollama, peft, quantization, vllm
from finch_hub.engine.export import parameters as options
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.training import loop
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.operations import OPERATIONS, UNSUPPORTED, find_limits
from finch_hub.specs.examples import Example
from finch_hub.specs.training import TrainingConfig

PAGE = Path(__file__).parents[3] / "docs" / "importing.md"
PLAIN = "low-rank updates of linear modules"
SHAPE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
KINDS: dict[str, dict[str, Any]] = {
    PLAIN: SHAPE,
    "DoRA magnitudes": {**SHAPE, "use_dora": True},
    "whole modules (modules_to_save)": {**SHAPE, "modules_to_save": ["lm_head"]},
    "trained biases": {**SHAPE, "bias": "lora_only"},
    "updates of embeddings": {**SHAPE, "target_modules": ["q_proj", "embed_tokens"]},
    "updates of Conv1D modules": {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True},
}


def generate(base: Path, adapter: Path, out: Path) -> None:
    model = GeneratorModel(load_base(base, dtype="float32", device="cpu"))
    model.load_lora(adapter, "guest")
    assert isinstance(model.generate("Where does it live?", max_new_tokens=2), str)


def evaluate(base: Path, adapter: Path, out: Path) -> None:
    loaded = load_base(base, dtype="float32", device="cpu")
    AttachableAdapter.load(adapter, loaded).detach()
    GeneratorModel(loaded).load_lora(adapter, "guest")


def train(base: Path, adapter: Path, out: Path) -> None:
    loaded = load_base(base, dtype="float32", device="cpu")
    started = AttachableAdapter.load(adapter, loaded)
    training = TrainingConfig(max_steps=1, validation=0.0)
    loop.train(loaded, started.config, training, [Example.of_pair("Where?", "There.")], adapter=started)


# Each operation as its job runs it, without the queue.
RUN: dict[str, Callable[[Path, Path, Path], object]] = {
    "generate": generate,
    "evaluate": evaluate,
    "compose": lambda base, adapter, out: parents.read_parent(adapter, "guest"),
    "train": train,
    "merge": lambda base, adapter, out: merging.merge(base, [(adapter, 1.0)], out),
    "quantize": lambda base, adapter, out: quantization.quantize(adapter, out, scheme="int8"),
    "export peft": lambda base, adapter, out: peft.export_peft(adapter, base, out, options.PEFTParameters()),
    "export merged": lambda base, adapter, out: merging.export_merged(adapter, base, out, options.MergedParameters()),
    "export vllm": lambda base, adapter, out: vllm.export_vllm(adapter, base, out, options.PEFTParameters()),
    "export gguf": lambda base, adapter, out: gguf.export_gguf(adapter, base, out, options.GGUFParameters()),
    "export ollama": lambda base, adapter, out: ollama.export_ollama(adapter, base, out, options.OllamaParameters()),
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(named("gpt2"), tmp_path_factory.mktemp("bases") / "gpt2", tie_word_embeddings=True)


HEAD = "updates of the head"  # of a head of its own, which every operation knows


@pytest.mark.parametrize("kind", [*KINDS, HEAD])
def test_operation_refuses_what_the_statement_says_and_nothing_else(
    tiny_folder: Path, gpt2: Path, tmp_path: Path, kind: str
) -> None:
    base = gpt2 if "Conv1D" in kind else tiny_folder
    if "biases" in kind:
        base = save_model(ARCHITECTURES[2], tmp_path / "base")  # Qwen2, whose q, k and v have biases
    shape = {**SHAPE, "target_modules": ["q_proj", "lm_head"]} if kind == HEAD else KINDS[kind]
    adapter = save_adapter(base, tmp_path / "adapter", **shape)
    if "embeddings" in kind or kind == HEAD:
        adapter = admit_adapter(adapter, tmp_path / "admitted", base=read_layout(base, name="tiny")).folder
    with StoredAdapter(adapter) as stored:
        limits = find_limits(stored)
    assert limits == ({kind: UNSUPPORTED[kind]} if kind in UNSUPPORTED else {})
    assert RUN.keys() == set(OPERATIONS)
    for operation, run in RUN.items():
        out = tmp_path / operation.replace(" ", "-")
        if operation in UNSUPPORTED.get(kind, ()):
            with pytest.raises((errors.Incompatible, errors.RefusedArtifact)):
                run(base, adapter, out)
        else:
            run(base, adapter, out)


def test_table_of_the_page_is_the_statement() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header = next(row for row in rows if row[0] == "adapter with")
    assert tuple(header[1:]) == OPERATIONS
    table = {row[0]: row[1:] for row in rows if row[0] in KINDS}
    assert table.keys() == KINDS.keys() == {PLAIN, *UNSUPPORTED}
    for kind, cells in table.items():
        refused = [operation for operation, cell in zip(OPERATIONS, cells, strict=True) if cell == "no"]
        assert set(refused) == set(UNSUPPORTED.get(kind, ()))
        assert all(re.fullmatch("yes|no", cell) for cell in cells)
