"""Where bases come from, and what is refused as one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.engine.bases import sources
from finch_hub.specs.jobs import BaseModelSource


def resolve(source: str | Path | BaseModelSource, cache: Path) -> Path:
    return sources.resolve(source, cache=cache)


def test_a_folder_is_used_where_it_is(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(tiny_folder, tmp_path) == tiny_folder
    monkeypatch.chdir(tiny_folder.parent)
    assert resolve(tiny_folder.name, tmp_path) == tiny_folder


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
def test_sources_are_told_apart_by_their_form(source: str, kind: str, tmp_path: Path) -> None:
    tests = {"gguf": sources.is_gguf, "folder": sources.is_folder, "hub": sources.is_hub_id}
    assert next((name for name, matches in tests.items() if matches(source)), "") == kind


def test_what_is_nowhere_is_not_found(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=f"did you mean .*{tiny_folder.name}"):
        resolve(str(tiny_folder)[:-1], tmp_path)
    with pytest.raises(errors.NotFound, match="no base model"):
        resolve("https://example.org/model", tmp_path)


def test_a_folder_has_no_revisions(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="no revisions"):
        resolve(BaseModelSource(source=str(tiny_folder), revision="main"), tmp_path)


def test_pickled_weights_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(errors.Incompatible, match=r"pickled weights only \(pytorch_model.bin\)"):
        resolve(folder, tmp_path)


def test_everything_missing_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(errors.Incompatible) as caught:
        resolve(tmp_path, tmp_path)
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


def test_a_file_that_is_no_gguf_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(errors.Incompatible, match="is a file and no base model"):
        sources.resolve(tmp_path / "data.jsonl", cache=tmp_path)


def test_an_adapter_is_no_base(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(errors.Incompatible, match="is an adapter"):
        resolve(folder, tmp_path)


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(errors.Unavailable, match="'no/such-model@v1' is no local folder"):
        resolve(BaseModelSource(source="no/such-model", revision="v1"), tmp_path)


def test_a_hub_model_that_was_fetched_before(
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
    folder = resolve(BaseModelSource(source="finch/tiny", revision="v1"), tmp_path)
    assert folder == repository / "snapshots" / commit
