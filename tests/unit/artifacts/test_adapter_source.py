"""Where an adapter lies in what people send: folders and archives as trainers and systems leave them."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.safetensors_files import CONFIG, adapter_folder, arrays, factors

from finch_hub import errors
from finch_hub.artifacts.gate import AdmittedAdapter, admit_adapter

TRAINER_FILES = (
    "README.md", "optimizer.pt", "rng_state.pth", "scheduler.pt", "scaler.pt", "trainer_state.json",
    "training_args.bin", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "added_tokens.json", "adapter_model.bin", "train.log", "runs/events.out.tfevents.1",
)  # fmt: skip


def put(folder: Path, *names: str) -> None:
    """Write files that are no adapter's, some of them pickles by their names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04}.")


def archive(folder: Path, suffix: str) -> Path:
    """Pack what a folder holds."""
    kind = {".zip": "zip", ".tar.gz": "gztar", ".tar": "tar", ".tar.xz": "xztar"}[suffix]
    return Path(shutil.make_archive(str(folder.parent / "sent"), kind, folder))


def admit(source: Path) -> AdmittedAdapter:
    """Admit a source, and check that nothing is left beside the result."""
    into = source.parent / "admitted"
    admitted = admit_adapter(source, into)
    assert sorted(path.name for path in into.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert not list(source.parent.glob(".unpacked-*"))
    return admitted


@pytest.mark.parametrize("inside", ["", "birds/", "output/final/birds/"])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar", ".tar.xz", ""])
def test_adapter_is_found_some_folders_deep_beside_what_trainers_write(
    tmp_path: Path, suffix: str, inside: str
) -> None:
    plain = admit_adapter(adapter_folder(tmp_path / "plain"), tmp_path / "same")
    folder = adapter_folder(tmp_path / "in" / inside)
    put(folder, *TRAINER_FILES)
    put(tmp_path / "in", "__MACOSX/birds/._adapter_config.json", ".DS_Store")
    put(folder, "._adapter_model.safetensors", "Thumbs.db", "desktop.ini")
    source = archive(tmp_path / "in", suffix) if suffix else tmp_path / "in"
    admitted = admit(source)
    assert admitted.identity == plain.identity
    told = {"optimizer.pt", "training_args.bin", "adapter_model.bin", "trainer_state.json", "tokenizer.json", "runs/"}
    assert told <= set(admitted.ignored_files)
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(admitted.ignored_files)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ""])
def test_checkpoints_beside_the_adapter_are_ignored_and_said(tmp_path: Path, suffix: str) -> None:
    expected = admit_adapter(adapter_folder(tmp_path / "plain"), tmp_path / "same").identity
    adapter_folder(tmp_path / "in/out/final")
    for step in (500, 1000):
        adapter_folder(tmp_path / f"in/out/checkpoint-{step}", config={"lora_alpha": step})
    admitted = admit(archive(tmp_path / "in", suffix) if suffix else tmp_path / "in")
    assert admitted.identity == expected
    assert admitted.ignored_files == ("out/checkpoint-1000/", "out/checkpoint-500/")


def test_checkpoints_inside_of_the_adapters_folder_are_ignored_and_said(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in")
    adapter_folder(folder / "checkpoint-500", config={"lora_alpha": 500})
    assert admit(folder).ignored_files == ("checkpoint-500/",)


def test_folder_with_one_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    adapter_folder(tmp_path / "in/checkpoint-500")
    put(tmp_path / "in", "trainer_state.json")
    assert admit(tmp_path / "in").ignored_files == ("trainer_state.json",)


@pytest.mark.parametrize("names", [("birds", "bees"), ("checkpoint-500", "checkpoint-1000"), ("a/x", "b/y/z")])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ""])
def test_several_adapters_are_refused_with_their_names_and_the_way_out(
    tmp_path: Path, suffix: str, names: tuple[str, str]
) -> None:
    for name in names:
        adapter_folder(tmp_path / "in" / name)
    source = archive(tmp_path / "in", suffix) if suffix else tmp_path / "in"
    with pytest.raises(errors.RefusedArtifact) as refused:
        admit_adapter(source, tmp_path / "admitted")
    text = str(refused.value)
    assert all(name in text for name in (*names, source.name, "holds 2 adapters", "import the folder of one"))


def test_single_file_in_an_archive_is_admitted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    content = arrays(factors(), {"adapter_config": json.dumps(CONFIG), "format": "pt"})
    (tmp_path / "in/birds.safetensors").write_bytes(content)
    put(tmp_path / "in", "notes.txt")
    assert admit(archive(tmp_path / "in", ".zip")).ignored_files == ("notes.txt",)


WRONG = {
    "a damaged config": ({"adapter_config.json": b"{"}, "cannot be read"),
    "damaged weights": ({"adapter_model.safetensors": b"x"}, "not a safetensors file"),
    "no weights": ({"adapter_model.safetensors": None}, "has no adapter_model.safetensors"),
    "pickled weights": ({"adapter_model.safetensors": None, "adapter_model.bin": b"x"}, "the pickle adapter_model.bin"),
    "no config": ({"adapter_config.json": None}, "has no"),
    "a wrong record": ({"finch.json": b"[]"}, "not a JSON object"),
    "an identity of others": ({"finch.json": b'{"identity": "0"}'}, "declares the identity"),
}


@pytest.mark.parametrize(("changes", "says"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("inside", ["", "birds/"])
def test_message_names_no_temporary_folder(
    tmp_path: Path, inside: str, changes: dict[str, bytes | None], says: str
) -> None:
    folder = adapter_folder(tmp_path / "in" / inside)
    for name, content in changes.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
    with pytest.raises(errors.RefusedArtifact) as refused:
        admit_adapter(archive(tmp_path / "in", ".zip"), tmp_path / "admitted")
    text = str(refused.value)
    assert says in text
    assert "unpacked" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["a.rar", "a.7z", "a.tar.zst", "adapter.gguf"])
def test_file_of_another_format_is_refused_by_name_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"Rar!" * 10)
    with pytest.raises(errors.RefusedArtifact, match=r"make a \.zip|import the PEFT folder"):
        admit_adapter(tmp_path / name, tmp_path / "admitted")


def test_export_for_llama_cpp_is_refused_with_what_to_import_instead(tmp_path: Path) -> None:
    put(tmp_path / "in", "adapter.gguf", "Modelfile", "finch.json")
    with pytest.raises(errors.RefusedArtifact, match=r"in: is a GGUF adapter.*import the PEFT folder"):
        admit_adapter(tmp_path / "in", tmp_path / "admitted")


def test_archive_of_a_mac_with_real_double_files_is_admitted(tmp_path: Path) -> None:
    """As Finder packs a folder: each file has a double with attributes, in a folder of its own or beside it."""
    folder = adapter_folder(tmp_path / "birds")
    with zipfile.ZipFile(tmp_path / "birds.zip", "w") as packed:
        for file in sorted(folder.iterdir()):
            packed.write(file, f"birds/{file.name}")
            packed.writestr(f"__MACOSX/birds/._{file.name}", b"\x00\x05\x16\x07")
    assert admit(tmp_path / "birds.zip").ignored_files == ("__MACOSX/",)
    shutil.rmtree(tmp_path / "admitted")
    with tarfile.open(tmp_path / "birds.tar.gz", "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            put(tmp_path, f"._{file.name}")
            tar.add(tmp_path / f"._{file.name}", f"./birds/._{file.name}")
            tar.add(file, f"./birds/{file.name}")
    ignored = admit(tmp_path / "birds.tar.gz").ignored_files
    assert ignored == ("birds/._adapter_config.json", "birds/._adapter_model.safetensors")


def test_walk_of_a_folder_follows_no_link(tmp_path: Path) -> None:
    adapter_folder(tmp_path / "elsewhere")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.RefusedArtifact, match="has no"):
        admit_adapter(tmp_path / "in", tmp_path / "admitted")
