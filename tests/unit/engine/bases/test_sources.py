"""Sources of base models, and folders that are refused."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support import hugging_face
from support.registry import describe_base

from finch_hub import errors
from finch_hub.engine.bases import sources
from finch_hub.engine.bases.fingerprint import compute_fingerprint, compute_first_fingerprint
from finch_hub.engine.bases.module_layout import read_layout
from finch_hub.engine.bases.weight_shapes import read_base_shape
from finch_hub.formats import model_files
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.progress import Advance
from finch_hub.specs.bases import is_hub_id
from finch_hub.specs.jobs import BaseModelSource


def fetch(source: str | Path, cache: Path, revision: str | None = None) -> Path:
    return sources.fetch_base(BaseModelSource(source=str(source), revision=revision), cache=cache)


def test_folder_is_used_in_place(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(tiny_folder, tmp_path) == tiny_folder
    monkeypatch.chdir(tiny_folder.parent)
    assert fetch(tiny_folder.name, tmp_path) == tiny_folder


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "hub"),
        ("gpt2", "hub"),
        ("./models/here", "folder"),
        ("~/models", "folder"),
        ("models/q4.gguf", "gguf"),
        ("/srv/Q4.GGUF", "gguf"),
        ("a/b/c", ""),
        ("../../etc/passwd", "folder"),
        ("org/..", ""),
        ("https://example.org/model", ""),
    ],
)
def test_form_of_the_text_decides_the_source(source: str, kind: str, tmp_path: Path) -> None:
    tests = {"gguf": sources.is_gguf, "folder": sources.is_folder, "hub": is_hub_id}
    assert next((name for name, matches in tests.items() if matches(source)), "") == kind


def test_missing_source_is_not_found(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=f"did you mean .*{tiny_folder.name}"):
        fetch(str(tiny_folder)[:-1], tmp_path)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("./folder-that-is-not-there", "folder"),
        ("/no/such", "folder"),
        ("~/no-such-folder", "folder"),
        ("models/q4.gguf", "GGUF file"),
        ("C:\\models\\x", "folder, file or repository"),
        ("models/x/", "folder, file or repository"),
        ("a/b/c", "folder, file or repository"),
        ("https://example.org/model", "folder, file or repository"),
    ],
)
def test_missing_path_says_that_it_is_missing_and_how_a_repository_id_looks(
    source: str, what: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.NotFound, match=f"no {what} '.* a repository id such as HuggingFaceTB/SmolLM2-135M"):
        fetch(source, tmp_path)


def test_name_that_may_be_a_path_is_said_to_be_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hugging_face.serve() as server:
        for token, what in ((None, "public repository 'models/x'"), (hugging_face.READER, "your token can read")):
            hugging_face.use(server, tmp_path / "cache", monkeypatch, token=token)
            with pytest.raises(errors.MissingRepository, match=f"{what}, and no such folder or file here"):
                fetch("models/x", tmp_path)


def test_revision_of_a_folder_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="no revisions"):
        fetch(tiny_folder, tmp_path, revision="main")


def test_pickled_weights_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(errors.Incompatible, match=r"pickled weights only \(pytorch_model.bin\)"):
        fetch(folder, tmp_path)


def test_empty_folder_reports_every_missing_file(tmp_path: Path) -> None:
    with pytest.raises(errors.Incompatible) as caught:
        fetch(tmp_path, tmp_path)
    assert len(caught.value.problems) == 3


def test_damaged_shards_are_named_before_anything_is_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(errors.Incompatible, match=r"model.safetensors: .*\(fetch or copy it again\)"):
        sources.check_folder(folder)
    weights.unlink()
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(errors.Incompatible) as caught:
        sources.check_folder(folder)
    assert [problem.where for problem in caught.value.problems] == list(index["weight_map"].values())


DAMAGED: dict[str, tuple[str, str | bytes, str]] = {
    "cut off": ("config.json", '{"model_type": "llama"', "cannot be read: "),
    "not UTF-8": ("config.json", b"\xff\xfe{}", "cannot be read: "),
    "nested": ("config.json", "[" * 100_000, "nested more than 64 deep"),
    "list": ("config.json", "[1]", "is not a JSON object"),
    "type": ("config.json", '{"model_type": ["llama"]}', "model_type: is not a text"),
    "architectures": ("config.json", '{"architectures": {"LlamaForCausalLM": 1}}', "architectures: is not a list"),
    "quantization": ("config.json", '{"quantization_config": "gptq"}', "quantization_config: is not a table"),
    "index": (model_files.INDEX, '{"weight_map"', "cannot be read: "),
    "shard": (model_files.INDEX, '{"weight_map": {"a": 5}}', "names no file of this folder for a"),
    "shard of another folder": (model_files.INDEX, '{"weight_map": {"a": "../b/c.safetensors"}}', "names no file of"),
    "shard with a zero": (model_files.INDEX, '{"weight_map": {"a": "a\\u0000.safetensors"}}', "names no file of"),
    "shard of a long name": (model_files.INDEX, json.dumps({"weight_map": {"a": "x" * 5000}}), "names no file of"),
    "surrogate": ("config.json", '{"model_type": "\\ud800"}', "half of a surrogate pair"),
    "kernels": ("config.json", '{"_attn_implementation": "a/b"}', "is not a part of transformers"),
    "shard without a name": (model_files.INDEX, '{"weight_map": {"a": ""}}', "names no file of this folder for a"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_json_is_a_problem_of_the_base_wherever_it_is_read(
    damage: str, tiny_folder: Path, tmp_path: Path
) -> None:
    name, content, expected = DAMAGED[damage]
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == model_files.INDEX:
        (folder / model_files.SINGLE).unlink()
    readers: list[Callable[[], object]] = [
        lambda: fetch(folder, tmp_path),
        lambda: compute_fingerprint(folder),
        lambda: compute_first_fingerprint(folder),
        lambda: read_layout(folder, name="tiny"),
        lambda: model_files.ModelFiles(folder),
    ]
    if name == model_files.INDEX:
        del readers[2]  # the first scheme hashes all weights of the folder, and reads no index
    for read in readers:
        with pytest.raises(errors.InvalidInput, match=expected):
            read()
    assert read_base_shape(folder, BaseLayout(name="", linear={}, embeddings={}, parameters={})) is None


def test_pipe_among_the_files_of_a_base_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("generation_config.json", "config.json", "tokenizer.json", model_files.SINGLE):
        folder = Path(shutil.copytree(tiny_folder, tmp_path / name))
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        with pytest.raises(errors.Incompatible, match="is not a regular file"):
            fetch(folder, tmp_path)
    with pytest.raises(errors.InvalidInput, match="is not a regular file"):
        model_files.read_config(tmp_path / "config.json")


def test_file_that_is_not_a_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(errors.Incompatible, match="is a file, not a base model"):
        fetch(tmp_path / "data.jsonl", tmp_path)


def test_adapter_folder_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(errors.Incompatible, match=r"holds an adapter beside the model \(adapter_config.json\)"):
        fetch(folder, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(errors.Incompatible, match="is an adapter, not a base model"):
        fetch(folder, tmp_path)


def test_folder_without_the_weights_that_transformers_loads_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(errors.Incompatible, match="has no safetensors weights"):
        fetch(folder, tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "spiece.model", "vocab.txt"])
def test_every_kind_of_tokenizer_counts_as_one(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "tokenizer.json").rename(folder / name)
    assert fetch(folder, tmp_path) == folder


def test_hub_without_an_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(errors.Unavailable, match="'no/such-model@v1', which is no local folder: it is not in"):
        fetch("no/such-model", tmp_path, revision="v1")


def test_hub_model_in_the_cache_is_found_offline(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "c" * 40
    repository = tmp_path / "models--finch--tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = fetch("finch/tiny", tmp_path, revision="v1")
    assert folder == repository / "snapshots" / commit


@pytest.mark.parametrize("is_sharded", [True, False])
def test_only_the_files_that_transformers_loads_are_downloaded(
    is_sharded: bool, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository as publishers leave it; the names that the Hugging Face Hub would match are matched here."""
    import huggingface_hub
    from huggingface_hub.utils._paths import filter_repo_objects

    repository = Path(shutil.copytree(tiny_folder, tmp_path / "repository"))
    weights = ["model.safetensors"]
    if is_sharded:
        weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        tensors = load_file(repository / "model.safetensors")
        names = sorted(tensors)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        for shard, half in zip(weights, halves, strict=True):
            save_file({name: tensors[name] for name in half}, repository / shard, {"format": "pt"})
        weight_map = {name: shard for shard, half in zip(weights, halves, strict=True) for name in half}
        (repository / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (repository / "model.safetensors").unlink()
    extras = ["consolidated.safetensors", "original/model.safetensors", "onnx/config.json", "pytorch_model.bin", "a.py"]
    for extra in extras:
        (repository / extra).parent.mkdir(exist_ok=True)
        (repository / extra).write_bytes(b"not needed")
    (repository / "additional_chat_templates").mkdir()
    (repository / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    commit, asked = tmp_path / "snapshots" / ("c" * 40), []

    def snapshot_download(name: str, *, revision: str | None, tqdm_class: Any = None, **patterns: Any) -> str:
        asked.append(revision)
        everything = [str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()]
        for file in filter_repo_objects(everything, **patterns):
            (commit / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / file, commit / file)
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert fetch("finch/tiny", tmp_path, revision="main") == commit
    assert asked == ["main", "c" * 40]
    found = {str(path.relative_to(commit)) for path in commit.rglob("*") if path.is_file()}
    assert {file for file in found if file.endswith(".safetensors")} == set(weights)
    assert "additional_chat_templates/tools.jinja" in found
    assert found.isdisjoint(extras)


def test_base_without_a_known_folder_is_not_held_against_its_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    described = describe_base("tiny", source=str(file))
    sources.check_registered(described, cache=tmp_path)
    with pytest.raises(errors.Incompatible, match="other files"):
        sources.check_registered(described.evolve(path=str(tmp_path / "gguf-0")), cache=tmp_path)


def test_bytes_of_a_download_are_told(told: list[Advance]) -> None:
    bar_class = sources._make_bar_class()
    for is_disabled in (False, True):
        told.clear()
        bar = bar_class(total=0, unit="B", unit_scale=True, disable=is_disabled, file=io.StringIO(), name="bytes")
        bar.total = 5_000_000
        for _ in range(5):
            bar.update(1_000_000)
        bar.close()
        assert [advance[:3] for advance in told] == [("MB fetched", done, 5) for done in range(1, 6)]
        with bar_class([1, 2], disable=is_disabled, file=io.StringIO()) as files:  # one of files
            assert list(files) == [1, 2]
        assert len(told) == 5
