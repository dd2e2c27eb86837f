"""Merges, with their plan, arithmetic and writer of shards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import VARIANTS, logits, save_adapter
from support.families import named, save_family
from support.models import ARCHITECTURES, save_model
from transformers import AutoModelForCausalLM

from finch_hub import errors
from finch_hub.engine.export import merging
from finch_hub.engine.export.parameters import MergedParameters
from finch_hub.formats.adapter_folder import StoredAdapter

TIED = next(a for a in ARCHITECTURES if a.tied and a.family == "llama")


def assert_same_logits(merged: Path, base: Path, adapters: list[Path], weights: list[float]) -> None:
    before = logits(base)
    expected = logits(base, adapters, weights)
    assert any((a - b).abs().max() > 0.1 for a, b in zip(before, expected, strict=True)), "the adapter does nothing"
    for ours, theirs in zip(logits(merged), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_model_gives_the_adapters_logits(tiny_folders: Path, tmp_path: Path, variant: str) -> None:
    adapter = save_adapter(tiny_folders, tmp_path / "adapter", **VARIANTS[variant])
    report = merging.merge(tiny_folders, [(adapter, 1.0)], tmp_path / "merged")
    assert_same_logits(tmp_path / "merged", tiny_folders, [adapter], [1.0])
    assert report.modules == len(StoredAdapter(adapter).modules)
    assert leftovers(tmp_path) == ["adapter", "merged"]


def test_merged_model_names_no_code(tiny_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    for name, known in (("config.json", "AutoModelForCausalLM"), ("tokenizer_config.json", "AutoTokenizer")):
        content = json.loads((base / name).read_bytes())
        (base / name).write_text(json.dumps({**content, "auto_map": {known: "owner/code--modeling_x.X"}}))
    shutil.copyfile(base / "model.safetensors", base / "consolidated.safetensors")
    (base / "modeling_x.py").write_text("raise SystemExit")
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    merging.merge(base, [(adapter, 1.0)], tmp_path / "merged")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "merged" / name).read_bytes())
    assert not {"modeling_x.py", "consolidated.safetensors"} & {path.name for path in (tmp_path / "merged").iterdir()}
    assert_same_logits(tmp_path / "merged", tiny_folder, [adapter], [1.0])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_checkpoint_without_its_prefix_is_merged_with_its_head(family: str, tmp_path: Path) -> None:
    """As models without their head are saved; the head is tied, and an adapter unties it."""
    base = save_family(named(family), tmp_path / "base", tie_word_embeddings=True)
    prefix = {"llama": "model.", "gpt2": "transformer."}[family]
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(base / "model.safetensors").items()}
    targets = {"llama": ["q_proj", "lm_head"], "gpt2": ["c_attn", "c_proj", "lm_head"]}[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of the tied head and of GPT-2's linear module among Conv1D
        adapter = save_adapter(base, tmp_path / "adapter", r=4, target_modules=targets, fan_in_fan_out=family == "gpt2")
        bare = shutil.copytree(base, tmp_path / "bare")
        save_file(tensors, bare / "model.safetensors", {"format": "pt"})
        merging.merge(bare, [(adapter, 1.0)], tmp_path / "merged")
        assert_same_logits(tmp_path / "merged", base, [adapter], [1.0])


def test_several_adapters_add_up_by_weight(tiny_folder: Path, tmp_path: Path) -> None:
    names = ("plain", "patterns", "rslora")
    adapters = [save_adapter(tiny_folder, tmp_path / n, seed=i, **VARIANTS[n]) for i, n in enumerate(names)]
    weights = [0.5, -0.25, 1.5]
    merging.merge(tiny_folder, list(zip(adapters, weights, strict=True)), tmp_path / "merged")
    assert_same_logits(tmp_path / "merged", tiny_folder, adapters, weights)


def test_merged_export_gives_the_logits_of_the_weighted_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "finches", **VARIANTS["plain"])
    merging.export_merged(adapter, tiny_folder, tmp_path / "out", MergedParameters(weight=0.5))
    assert_same_logits(tmp_path / "out", tiny_folder, [adapter], [0.5])
    with pytest.raises(errors.Incompatible, match="base"):
        merging.export_merged(adapter, None, tmp_path / "none", MergedParameters())


def test_plain_adapter_adds_to_the_redefinition_of_a_dora_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    adapters = [save_adapter(tiny_folder, tmp_path / n, seed=i, **VARIANTS[n]) for i, n in enumerate(("dora", "plain"))]
    for name, order in {"first": (0, 1), "last": (1, 0)}.items():
        merging.merge(tiny_folder, [(adapters[i], (1.0, 0.5)[i]) for i in order], tmp_path / name)
        assert_same_logits(tmp_path / name, tiny_folder, adapters, [1.0, 0.5])


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("tied", [True, False])
def test_head_and_embeddings_change_independently_even_if_tied(tmp_path: Path, target: str, tied: bool) -> None:
    architecture = next(a for a in ARCHITECTURES if a.tied == tied and a.family == "llama")
    base = save_model(architecture, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=[target, "q_proj"])
    merging.merge(base, [(adapter, 1.0)], tmp_path / "merged")
    assert_same_logits(tmp_path / "merged", base, [adapter], [1.0])
    assert json.loads((tmp_path / "merged/config.json").read_text())["tie_word_embeddings"] is False


def test_modules_trained_whole_replace_those_of_the_base(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(
        tiny_folder, tmp_path / "adapter", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    merging.merge(tiny_folder, [(adapter, 1.0)], tmp_path / "merged")
    assert_same_logits(tmp_path / "merged", tiny_folder, [adapter], [1.0])


def test_unadapted_tensors_and_files_keep_their_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    (adapter / "finch.json").write_text('{"name": "seeds", "identity": "abc", "kind": "train"}')
    merging.merge(tiny_folder, [(adapter, 1.0)], tmp_path / "merged", base_model="birds/finch-1")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_folder, tmp_path / "merged"))
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name}
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tiny_folder / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()
    card = (tmp_path / "merged/README.md").read_text()
    assert 'base_model: "birds/finch-1"\nbase_model_relation: "merge"\n' in card
    assert 'library_name: "transformers"' in card
    assert "- `seeds`, weight 1\n" in card
    record = json.loads((tmp_path / "merged/finch.json").read_text())
    assert record["adapters"] == [{"name": "seeds", "identity": "abc", "weight": 1.0}]


def test_shards_and_their_index_are_kept(tiny_folder: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny_folder, sharded)
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_folder).save_pretrained(sharded, max_shard_size="100KB")
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    merging.merge(tiny_folder, [(adapter, 1.0)], tmp_path / "one")
    merging.merge(sharded, [(adapter, 1.0)], tmp_path / "many")
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert json.loads((tmp_path / "many/model.safetensors.index.json").read_text()) == index
    whole = load_file(tmp_path / "one/model.safetensors")
    assert len(set(index["weight_map"].values())) > 2
    for name, shard in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "many" / shard)[name], whole[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once_from_float32(tmp_path: Path, dtype: str) -> None:
    base = save_model(ARCHITECTURES[0], tmp_path / "base", dtype=dtype)
    adapter = save_adapter(base, tmp_path / "adapter", **VARIANTS["plain"])
    merging.merge(base, [(adapter, 1.0)], tmp_path / "merged")
    weights, merged = load_file(base / "model.safetensors"), load_file(tmp_path / "merged/model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    for name in (n for n in weights if n.endswith("_proj.weight")):
        a, b = (factors[f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight"].double() for x in "AB")
        exact = weights[name].double() + 2.0 * b @ a
        assert merged[name].dtype == weights[name].dtype
        # Rarely, a float32 product falls on the other side of a tie, but within half a step.
        assert (merged[name] == exact.to(merged[name].dtype)).double().mean() > 0.999
        torch.testing.assert_close(
            merged[name].double(), exact, atol=1e-6, rtol=2**-8 if dtype == "bfloat16" else 2**-11
        )


def test_names_without_the_models_prefix_are_found(tiny_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_folder, bare)
    tensors = load_file(tiny_folder / "model.safetensors")
    save_file({name.removeprefix("model."): t for name, t in tensors.items()}, bare / "model.safetensors")
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    for folder, out in ((tiny_folder, "merged"), (bare, "merged-bare")):
        merging.merge(folder, [(adapter, 1.0)], tmp_path / out)
    merged, of_bare = (load_file(tmp_path / out / "model.safetensors") for out in ("merged", "merged-bare"))
    assert all(torch.equal(of_bare[name.removeprefix("model.")], tensor) for name, tensor in merged.items())


def _sharded(tiny_folder: Path, folder: Path) -> tuple[Path, list[Path]]:
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_folder).save_pretrained(folder, max_shard_size="100KB")
    return folder, sorted(folder.glob("*.safetensors"))


def test_missing_and_truncated_shards_are_all_named_before_writing(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    base, shards = _sharded(tiny_folder, tmp_path / "base")
    shards[0].unlink()
    os.truncate(shards[1], shards[1].stat().st_size - 1)
    with pytest.raises(errors.InvalidInput) as caught:
        merging.merge(base, [(adapter, 1.0)], tmp_path / "merged")
    assert shards[0].name in str(caught.value)
    assert shards[1].name in str(caught.value)
    assert leftovers(tmp_path) == ["adapter", "base"]


def test_all_tensors_that_do_not_fit_are_named_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    tensors = load_file(tiny_folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(errors.Incompatible) as caught:
        merging.merge(other, [(adapter, 1.0)], tmp_path / "merged")
    assert len(caught.value.problems) == 2
    assert "[3, 3]" in str(caught.value)
    assert "model.layers.1.mlp.up_proj.weight" in str(caught.value)


def test_dora_with_another_weight_or_twice_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["dora"])
    with pytest.raises(errors.Incompatible, match=r"0\.5 times"):
        merging.merge(tiny_folder, [(adapter, 0.5)], tmp_path / "merged")
    with pytest.raises(errors.Incompatible, match="another adapter redefines"):
        merging.merge(tiny_folder, [(adapter, 1.0), (adapter, 1.0)], tmp_path / "merged")


def test_values_that_are_not_finite_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    with pytest.raises(errors.InvalidInput, match="not finite"):
        merging.merge(tiny_folder, [(adapter, float("nan"))], tmp_path / "merged")
    with pytest.raises(errors.Incompatible, match="not finite"):
        merging.merge(tiny_folder, [(adapter, 1e39)], tmp_path / "merged")
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(errors.Incompatible, match="NaN"):
        merging.merge(tiny_folder, [(adapter, 1.0)], tmp_path / "merged")
    assert leftovers(tmp_path) == ["adapter"]


def test_only_an_earlier_merge_is_replaced_on_request(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    out = tmp_path / "merged"
    out.mkdir()
    merging.merge(tiny_folder, [(adapter, 1.0)], out)
    first = (out / "model.safetensors").read_bytes()
    with pytest.raises(errors.Conflict, match="earlier merged model"):
        merging.merge(tiny_folder, [(adapter, 0.5)], out)
    merging.merge(tiny_folder, [(adapter, 0.5)], out, replace=True)
    assert (out / "model.safetensors").read_bytes() != first
    with pytest.raises(errors.Conflict, match="not an earlier merged model"):
        merging.merge(tiny_folder, [(adapter, 1.0)], adapter, replace=True)
    assert leftovers(tmp_path) == ["adapter", "merged"]


SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
from finch_hub.engine.export import merging
from finch_hub.formats.adapter_folder import StoredAdapter

base, adapter, out, fault = sys.argv[1:]
if fault == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
def progress(done, total):
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
try:
    merging.merge(Path(base), [(Path(adapter), 1.0)], Path(out), progress=progress)
except Exception as error:
    print(type(error).__name__, error)
print("torch" in sys.modules)
"""


def _merge_in_a_process(base: Path, adapter: Path, out: Path, fault: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(base), str(adapter), str(out), fault]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_full_disk_is_reported_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    done = _merge_in_a_process(tiny_folder, adapter, tmp_path / "merged", "full")
    assert done.stdout.startswith("Unavailable"), done
    assert "no space left" in done.stdout
    assert leftovers(tmp_path) == ["adapter"]


def test_disk_that_is_too_small_is_reported_before_writing(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    size = shutil.disk_usage(tmp_path).free + 2**30
    tensors = load_file(tiny_folder / "model.safetensors")
    header = {name: {"dtype": "F32", "shape": list(t.shape), "offset": t.numel() * 4} for name, t in tensors.items()}
    end, entries = 0, {}
    for name, entry in [*header.items(), ("huge", {"dtype": "U8", "shape": [size], "offset": size})]:
        entries[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [end, end + entry["offset"]]}
        end += entry["offset"]
    text = json.dumps(entries).encode()
    (base / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(base / "model.safetensors", 8 + len(text) + end)  # sparse, so it takes no space
    with pytest.raises(errors.Unavailable, match=r"could not write .* bytes"):
        merging.merge(base, [(adapter, 1.0)], tmp_path / "merged")
    assert leftovers(tmp_path) == ["adapter", "base"]


def test_killed_merge_leaves_no_model_and_the_next_merge_cleans_up(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    done = _merge_in_a_process(tiny_folder, adapter, tmp_path / "merged", "killed")
    assert done.returncode == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 2
    assert not (tmp_path / "merged").exists()
    done = _merge_in_a_process(tiny_folder, adapter, tmp_path / "merged", "none")
    assert done.stdout == "False\n", done  # torch was not imported
    assert leftovers(tmp_path) == ["adapter", "merged"]


def test_memory_is_bounded_by_a_block_and_not_by_a_tensor(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    weight = torch.from_numpy(generator.standard_normal((16384, 2048), np.float32))  # 128 MiB
    save_file({"layer.weight": weight}, base / "model.safetensors")
    (base / "config.json").write_text('{"tie_word_embeddings": false}')
    a, b = (torch.from_numpy(generator.standard_normal(shape, np.float32)) for shape in ((4, 2048), (16384, 4)))
    factors = {"base_model.model.layer.lora_A.weight": a, "base_model.model.layer.lora_B.weight": b}
    save_file(factors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    tracemalloc.start()
    try:
        merging.merge(base, [(adapter, 1.0)], tmp_path / "merged")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20
    merged = load_file(tmp_path / "merged/model.safetensors")["layer.weight"]
    torch.testing.assert_close(merged, weight + b @ a)


def test_progress_ends_at_the_total(tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"])
    seen: list[tuple[int, int]] = []
    report = merging.merge(
        tiny_folder, [(adapter, 1.0)], tmp_path / "merged", progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (report.bytes_written, report.bytes_written)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
