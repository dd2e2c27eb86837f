"""Sources of base models, and folders that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.engine.bases import sources
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
    tests = {"gguf": sources.is_gguf, "folder": sources.is_folder, "hub": sources.is_hub_id}
    assert next((name for name, matches in tests.items() if matches(source)), "") == kind


def test_missing_source_is_not_found(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=f"did you mean .*{tiny_folder.name}"):
        fetch(str(tiny_folder)[:-1], tmp_path)
    with pytest.raises(errors.NotFound, match="no base model"):
        fetch("https://example.org/model", tmp_path)


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
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(errors.Incompatible) as caught:
        sources.check_folder(folder)
    assert [problem.where for problem in caught.value.problems] == list(index["weight_map"].values())


def test_file_that_is_not_a_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(errors.Incompatible, match="is a file, not a base model"):
        fetch(tmp_path / "data.jsonl", tmp_path)


def test_adapter_folder_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(errors.Incompatible, match="is an adapter"):
        fetch(folder, tmp_path)


def test_hub_without_an_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(errors.Unavailable, match="'no/such-model@v1': it is not a local folder"):
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
